# Crosscoders: training, evaluation on held-out rows, descriptions of their latents.


wildcard_constraints:
    site=one_of({crosscoder.site for crosscoder in STUDY.crosscoders.values()}),


rule train_crosscoder:
    input:
        unpack(inputs("train_crosscoder")),
    output:
        LAYOUT.weights(*RUN),
    log:
        LAYOUT.log("train_crosscoder", RUN_NAME),
        throughput=LAYOUT.throughput(*RUN),
    benchmark:
        LAYOUT.benchmark("train_crosscoder", RUN_NAME)
    wildcard_constraints:
        crosscoder=one_of(
            name
            for name, crosscoder in STUDY.crosscoders.items()
            if not crosscoder.weights
        ),
    conda:
        GPU_ENV
    threads: lambda wildcards: 8 * crosscoder_of(wildcards).processes
    resources:
        **{
            **gpu(32, 12, "train_crosscoder"),
            "gpu": lambda wildcards: crosscoder_of(wildcards).gpus,
            "mem": lambda wildcards, attempt: f"{32 * attempt * crosscoder_of(wildcards).processes}GB",
        },
        checkpoint_every=lambda wildcards: crosscoder_of(wildcards).checkpoint_every,
        processes=lambda wildcards: crosscoder_of(wildcards).processes,
        model_gpus=lambda wildcards: crosscoder_of(wildcards).model_gpus,
        track=lambda wildcards: " ".join(crosscoder_of(wildcards).track),
    params:
        spec=spec("train_crosscoder"),
    script:
        "../scripts/train_crosscoder.py"


rule evaluate_crosscoder:
    input:
        unpack(inputs("evaluate_crosscoder")),
    output:
        LAYOUT.evaluation(*RUN),
    log:
        LAYOUT.log("evaluate_crosscoder", RUN_NAME),
    benchmark:
        LAYOUT.benchmark("evaluate_crosscoder", RUN_NAME)
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 2, "evaluate_crosscoder"),
    params:
        spec=spec("evaluate_crosscoder"),
    script:
        "../scripts/evaluate_crosscoder.py"


rule describe_latents:
    input:
        unpack(inputs("describe_latents")),
    output:
        LAYOUT.latents(*RUN),
    log:
        LAYOUT.log("describe_latents", RUN_NAME),
    benchmark:
        LAYOUT.benchmark("describe_latents", RUN_NAME)
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 2),
    params:
        spec=spec("describe_latents"),
    script:
        "../scripts/describe_latents.py"


rule compare_seeds:
    input:
        unpack(inputs("compare_seeds")),
    output:
        LAYOUT.seeds("{crosscoder}", "{site}"),
    log:
        LAYOUT.log("compare_seeds", "{crosscoder}/{site}"),
    benchmark:
        LAYOUT.benchmark("compare_seeds", "{crosscoder}/{site}")
    conda:
        CPU_ENV
    threads: 8
    resources:
        **cpu(32),
    params:
        spec=spec("compare_seeds"),
    script:
        "../scripts/compare_seeds.py"
