# What comes from outside: models, text and dictionaries. On the submitting machine, because compute nodes have no internet.


localrules:
    fetch_model,
    fetch_corpus,
    fetch_dictionary,


rule fetch_model:
    input:
        model_files,
    output:
        RESULTS / "models" / "{model}" / "manifest.json",
    log:
        log_of("fetch_model", "{model}"),
    benchmark:
        benchmark_of("fetch_model", "{model}")
    wildcard_constraints:
        model=one_of(m for m in STUDY.models if not STUDY.is_derived(m)),
    conda:
        CPU_ENV
    resources:
        **cpu(8),
    params:
        spec=spec("fetch_model"),
    script:
        "../scripts/fetch_model.py"


rule fetch_corpus:
    input:
        corpus_files,
    output:
        RESULTS / "corpora" / "{corpus}" / "manifest.json",
    log:
        log_of("fetch_corpus", "{corpus}"),
    benchmark:
        benchmark_of("fetch_corpus", "{corpus}")
    conda:
        CPU_ENV
    resources:
        **cpu(4),
    params:
        spec=spec("fetch_corpus"),
    script:
        "../scripts/fetch_corpus.py"


rule fetch_dictionary:
    input:
        dictionary_files,
        model=lambda wildcards: model_manifest(
            STUDY.dictionaries[wildcards.dictionary].model
        ),
    output:
        RESULTS / "dictionaries" / "{dictionary}" / "manifest.json",
    log:
        log_of("fetch_dictionary", "{dictionary}"),
    benchmark:
        benchmark_of("fetch_dictionary", "{dictionary}")
    wildcard_constraints:
        dictionary=one_of(
            name for name, made in STUDY.dictionaries.items() if made.kind != "trained"
        ),
    conda:
        GPU_ENV
    resources:
        **cpu(16),
    params:
        spec=spec("fetch_dictionary"),
    script:
        "../scripts/fetch_dictionary.py"
