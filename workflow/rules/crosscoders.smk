# One dictionary for several models: trained, judged on held-out rows, described latent by latent.
CROSSCODER_FILES = RESULTS / "crosscoders" / "{crosscoder}" / "{site}" / "seed-{seed}"


wildcard_constraints:
    site=one_of({crosscoder.site for crosscoder in STUDY.crosscoders.values()}),


rule train_crosscoder:
    input:
        unpack(training_rows),
    output:
        CROSSCODER_FILES / "weights.h5",
    log:
        log_of("train_crosscoder", "{crosscoder}/{site}/seed-{seed}"),
        throughput=RESULTS
        / "benchmarks"
        / "train_crosscoder"
        / "{crosscoder}/{site}/seed-{seed}.throughput.json",
    benchmark:
        benchmark_of("train_crosscoder", "{crosscoder}/{site}/seed-{seed}")
    wildcard_constraints:
        crosscoder=one_of(
            name for name, made in STUDY.crosscoders.items() if not made.weights
        ),
    conda:
        GPU_ENV
    threads: lambda wildcards: 8 * how_trained(wildcards).processes
    resources:
        **{
            **gpu(32, 12),
            "gpu": lambda wildcards: how_trained(wildcards).processes,
            "mem": lambda wildcards, attempt: f"{32 * attempt * how_trained(wildcards).processes}GB",
        },
        device=STUDY.device,
        checkpoint_every=lambda wildcards: how_trained(wildcards).checkpoint_every,
        processes=lambda wildcards: how_trained(wildcards).processes,
        track=lambda wildcards: " ".join(how_trained(wildcards).track),
    params:
        spec=spec("train_crosscoder"),
    script:
        "../scripts/train_crosscoder.py"


rule evaluate_crosscoder:
    input:
        unpack(crosscoder_rows),
        unpack(crosscoder_models),
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


rule compare_seeds:
    input:
        runs_of_seeds,
    output:
        RESULTS / "crosscoders" / "{crosscoder}" / "{site}" / "seeds.h5",
    log:
        log_of("compare_seeds", "{crosscoder}/{site}"),
    benchmark:
        benchmark_of("compare_seeds", "{crosscoder}/{site}")
    conda:
        CPU_ENV
    threads: 8
    resources:
        **cpu(32),
    params:
        spec=spec("compare_seeds"),
    script:
        "../scripts/compare_seeds.py"
