# One dictionary for several models: trained, judged on held-out rows, described latent by latent.
CROSSCODER_FILES = RESULTS / "crosscoders" / "{crosscoder}" / "{site}" / "seed-{seed}"


wildcard_constraints:
    site=one_of({crosscoder.site for crosscoder in STUDY.crosscoders.values()}),


rule train_crosscoder:
    input:
        unpack(crosscoder_rows),
    output:
        CROSSCODER_FILES / "weights.h5",
    log:
        log_of("train_crosscoder", "{crosscoder}/{site}/seed-{seed}"),
    benchmark:
        benchmark_of("train_crosscoder", "{crosscoder}/{site}/seed-{seed}")
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(32, 12),
        device=STUDY.device,
        checkpoint_every=lambda wildcards: STUDY.crosscoders[
            wildcards.crosscoder
        ].checkpoint_every,
    params:
        spec=spec("train_crosscoder"),
    script:
        "../scripts/train_crosscoder.py"


rule evaluate_crosscoder:
    input:
        unpack(crosscoder_rows),
        weights=CROSSCODER_FILES / "weights.h5",
    output:
        CROSSCODER_FILES / "evaluation.h5",
    log:
        log_of("evaluate_crosscoder", "{crosscoder}/{site}/seed-{seed}"),
    benchmark:
        benchmark_of("evaluate_crosscoder", "{crosscoder}/{site}/seed-{seed}")
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 2),
        device=STUDY.device,
    params:
        spec=spec("evaluate_crosscoder"),
    script:
        "../scripts/evaluate_crosscoder.py"


rule describe_latents:
    input:
        unpack(crosscoder_rows),
        weights=CROSSCODER_FILES / "weights.h5",
    output:
        CROSSCODER_FILES / "latents.h5",
    log:
        log_of("describe_latents", "{crosscoder}/{site}/seed-{seed}"),
    benchmark:
        benchmark_of("describe_latents", "{crosscoder}/{site}/seed-{seed}")
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 2),
        device=STUDY.device,
    params:
        spec=spec("describe_latents"),
    script:
        "../scripts/describe_latents.py"
