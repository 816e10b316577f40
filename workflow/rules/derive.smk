# Models made from other models of the study.


rule derive_model:
    input:
        unpack(derive_inputs),
    output:
        RESULTS / "models" / "{model}" / "manifest.json",
    log:
        log_of("derive_model", "{model}"),
    benchmark:
        benchmark_of("derive_model", "{model}")
    wildcard_constraints:
        model=one_of(m for m in STUDY.models if STUDY.is_derived(m)),
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 4),
        device=STUDY.device,
        checkpoint_every=lambda wildcards: getattr(
            STUDY.models[wildcards.model], "checkpoint_every", 0
        ),
    params:
        spec=spec("derive_model"),
    script:
        "../scripts/derive_model.py"
