# Sparse autoencoders, and the codes they give on each model.


def dictionary_rows(wildcards):
    """The rows that a dictionary is trained on."""
    dictionary = STUDY.dictionaries[wildcards.dictionary]
    place = (dictionary.corpus, dictionary.model, dictionary.site)
    return {
        "shards": shards_of(*place),
        "gates": gates_of(*place),
        "tokens": tokens_of(dictionary.corpus, dictionary.model),
    }


def feature_rows(wildcards):
    """One shard of the rows that a dictionary is read on."""
    place = (wildcards.corpus, wildcards.model, STUDY.dictionaries[wildcards.dictionary].site)
    return {
        "shards": shards_of(*place)[int(wildcards.shard)],
        "gates": gates_of(*place),
        "tokens": tokens_of(wildcards.corpus, wildcards.model),
        "dictionary": dictionary_manifest(wildcards.dictionary),
    }


rule train_dictionary:
    input:
        unpack(dictionary_rows),
    output:
        RESULTS / "dictionaries" / "{dictionary}" / "manifest.json",
    params:
        spec=spec("train_dictionary"),
    log:
        log_of("train_dictionary", "{dictionary}"),
    benchmark:
        benchmark_of("train_dictionary", "{dictionary}")
    threads: 8
    resources:
        device=STUDY.device,
        **gpu(24, 8),
    conda:
        GPU_ENV
    script:
        "../scripts/train_dictionary.py"


rule encode_features:
    input:
        unpack(feature_rows),
    output:
        RESULTS / "features" / "{corpus}" / "{model}" / "{dictionary}" / "{shard}.h5",
    params:
        spec=spec("encode_features"),
    log:
        log_of("encode_features", "{corpus}/{model}/{dictionary}/{shard}"),
    benchmark:
        benchmark_of("encode_features", "{corpus}/{model}/{dictionary}/{shard}")
    threads: 8
    resources:
        device=STUDY.device,
        **gpu(24, 2),
    conda:
        GPU_ENV
    script:
        "../scripts/encode_features.py"
