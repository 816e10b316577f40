# Two models without a crosscoder: the map between their spaces, their features' correlation, the pairing.
PAIR_FILES = RESULTS / "pairs" / "{pair}" / "{site_a}--{site_b}"


def pair_rows(wildcards):
    """Both models' rows at the sites compared."""
    pair = STUDY.pairs[wildcards.pair]
    a, b = (pair.corpus, pair.a, wildcards.site_a), (pair.corpus, pair.b, wildcards.site_b)
    return {
        "shards_a": shards_of(*a),
        "shards_b": shards_of(*b),
        "gates_a": gates_of(*a),
        "gates_b": gates_of(*b),
        "tokens_a": tokens_of(pair.corpus, pair.a),
        "tokens_b": tokens_of(pair.corpus, pair.b),
        "alignment": alignment_of(pair.corpus, pair.a, pair.b),
    }


def own_features(wildcards):
    """The codes of each model's own dictionary on its own rows."""
    pair = STUDY.pairs[wildcards.pair]
    return {
        "features_a": features_of(pair.corpus, pair.a, pair.dictionary_a),
        "features_b": features_of(pair.corpus, pair.b, pair.dictionary_b),
        "alignment": alignment_of(pair.corpus, pair.a, pair.b),
    }


def cross_features(wildcards):
    """The codes of each dictionary on the other model's rows."""
    pair = STUDY.pairs[wildcards.pair]
    return {
        "features_a_on_b": features_of(pair.corpus, pair.b, pair.dictionary_a),
        "features_b_on_a": features_of(pair.corpus, pair.a, pair.dictionary_b),
        "dictionary_a": dictionary_manifest(pair.dictionary_a),
        "dictionary_b": dictionary_manifest(pair.dictionary_b),
        "tokens_a": tokens_of(pair.corpus, pair.a),
        "tokens_b": tokens_of(pair.corpus, pair.b),
    }


rule fit_linear_map:
    input:
        unpack(pair_rows),
    output:
        PAIR_FILES / "linear_map.h5",
    params:
        spec=spec("fit_linear_map"),
    log:
        log_of("fit_linear_map", "{pair}/{site_a}--{site_b}"),
    benchmark:
        benchmark_of("fit_linear_map", "{pair}/{site_a}--{site_b}")
    threads: 8
    resources:
        **cpu(16, 2),
    conda:
        CPU_ENV
    script:
        "../scripts/fit_linear_map.py"


rule correlate_features:
    input:
        unpack(own_features),
    output:
        PAIR_FILES / "correlation.h5",
    params:
        spec=spec("correlate_features"),
    log:
        log_of("correlate_features", "{pair}/{site_a}--{site_b}"),
    benchmark:
        benchmark_of("correlate_features", "{pair}/{site_a}--{site_b}")
    threads: 8
    resources:
        **cpu(16, 2),
    conda:
        CPU_ENV
    script:
        "../scripts/correlate_features.py"


rule pair_features:
    input:
        unpack(own_features),
        unpack(cross_features),
        correlation=PAIR_FILES / "correlation.h5",
        linear_map=PAIR_FILES / "linear_map.h5",
    output:
        PAIR_FILES / "pairing.h5",
    params:
        spec=spec("pair_features"),
    log:
        log_of("pair_features", "{pair}/{site_a}--{site_b}"),
    benchmark:
        benchmark_of("pair_features", "{pair}/{site_a}--{site_b}")
    threads: 4
    resources:
        **cpu(16),
    conda:
        CPU_ENV
    script:
        "../scripts/pair_features.py"
