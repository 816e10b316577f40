# Models, adapters, text and dictionaries from outside, on the submitting machine: compute nodes have no internet.


localrules:
    fetch_model,
    fetch_adapter,
    fetch_corpus,
    fetch_dictionary,


rule fetch_model:
    input:
        unpack(inputs("fetch_model")),
    output:
        LAYOUT.model("{model}"),
    log:
        LAYOUT.log("fetch_model", "{model}"),
    benchmark:
        LAYOUT.benchmark("fetch_model", "{model}")
    wildcard_constraints:
        model=one_of(m for m in STUDY.models if not STUDY.is_derived(m)),
    conda:
        CPU_ENV
    resources:
        **cpu(8),
        wheels=str(LAYOUT.wheels()),
    params:
        spec=spec("fetch_model"),
    script:
        "../scripts/fetch_model.py"


rule fetch_adapter:
    input:
        unpack(inputs("fetch_adapter")),
    output:
        LAYOUT.adapter("{model}"),
    log:
        LAYOUT.log("fetch_adapter", "{model}"),
    benchmark:
        LAYOUT.benchmark("fetch_adapter", "{model}")
    wildcard_constraints:
        model=one_of(m for m, model in STUDY.models.items() if model.kind == "adapter"),
    conda:
        CPU_ENV
    resources:
        **cpu(4),
    params:
        spec=spec("fetch_adapter"),
    script:
        "../scripts/fetch_adapter.py"


rule fetch_corpus:
    input:
        unpack(inputs("fetch_corpus")),
    output:
        LAYOUT.corpus("{corpus}"),
    log:
        LAYOUT.log("fetch_corpus", "{corpus}"),
    benchmark:
        LAYOUT.benchmark("fetch_corpus", "{corpus}")
    conda:
        CPU_ENV
    resources:
        **cpu(4),
        wheels=str(LAYOUT.wheels()),
    params:
        spec=spec("fetch_corpus"),
    script:
        "../scripts/fetch_corpus.py"


rule fetch_dictionary:
    input:
        unpack(inputs("fetch_dictionary")),
    output:
        LAYOUT.dictionary("{dictionary}"),
    log:
        LAYOUT.log("fetch_dictionary", "{dictionary}"),
    benchmark:
        LAYOUT.benchmark("fetch_dictionary", "{dictionary}")
    wildcard_constraints:
        dictionary=one_of(
            name
            for name, dictionary in STUDY.dictionaries.items()
            if dictionary.kind != "trained"
        ),
    conda:
        GPU_ENV
    resources:
        **cpu(16),
    params:
        spec=spec("fetch_dictionary"),
    script:
        "../scripts/fetch_dictionary.py"
