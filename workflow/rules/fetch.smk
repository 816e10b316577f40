# What comes from outside: models and text. On the submitting machine, because compute nodes have no internet.


localrules:
    fetch_model,
    fetch_corpus,


rule fetch_model:
    output:
        RESULTS / "models" / "{model}" / "manifest.json",
    wildcard_constraints:
        model=one_of(m for m in STUDY.models if not STUDY.is_derived(m)),
    params:
        spec=spec("fetch_model"),
    log:
        log_of("fetch_model", "{model}"),
    benchmark:
        benchmark_of("fetch_model", "{model}")
    resources:
        **cpu(8),
    conda:
        CPU_ENV
    script:
        "../scripts/fetch_model.py"


rule fetch_corpus:
    output:
        RESULTS / "corpora" / "{corpus}" / "manifest.json",
    params:
        spec=spec("fetch_corpus"),
    log:
        log_of("fetch_corpus", "{corpus}"),
    benchmark:
        benchmark_of("fetch_corpus", "{corpus}")
    resources:
        **cpu(4),
    conda:
        CPU_ENV
    script:
        "../scripts/fetch_corpus.py"
