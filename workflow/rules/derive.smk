# Models derived from other models of the study.


rule derive_model:
    input:
        unpack(inputs("derive_model")),
    output:
        LAYOUT.model("{model}"),
    log:
        LAYOUT.log("derive_model", "{model}"),
    benchmark:
        LAYOUT.benchmark("derive_model", "{model}")
    wildcard_constraints:
        model=one_of(m for m in STUDY.models if STUDY.is_derived(m)),
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 4, "derive_model"),
        checkpoint_every=lambda wildcards: getattr(
            STUDY.models[wildcards.model], "checkpoint_every", 0
        ),
    params:
        spec=spec("derive_model"),
    script:
        "../scripts/derive_model.py"
