# One dictionary for several models: trained, judged on held-out rows, described latent by latent.
CROSSCODER_FILES = RESULTS / "crosscoders" / "{crosscoder}" / "{site}" / "seed-{seed}"


wildcard_constraints:
    site=one_of({crosscoder.site for crosscoder in STUDY.crosscoders.values()}),


def crosscoder_rows(wildcards):
    """The rows of all models of a crosscoder."""
    crosscoder = STUDY.crosscoders[wildcards.crosscoder]
    places = [(crosscoder.corpus, model, wildcards.site) for model in crosscoder.models]
    return {
        "shards": [shard for place in places for shard in shards_of(*place)],
        "gates": [gates_of(*place) for place in places],
        "tokens": [tokens_of(crosscoder.corpus, model) for model in crosscoder.models],
        "alignment": alignment_of(crosscoder.corpus, *crosscoder.models[:2]),
    }


rule train_crosscoder:
    input:
        unpack(crosscoder_rows),
    output:
        CROSSCODER_FILES / "weights.h5",
    params:
        spec=spec("train_crosscoder"),
    log:
        log_of("train_crosscoder", "{crosscoder}/{site}/seed-{seed}"),
    benchmark:
        benchmark_of("train_crosscoder", "{crosscoder}/{site}/seed-{seed}")
    threads: 8
    resources:
        device=STUDY.device,
        checkpoint_every=lambda wildcards: STUDY.crosscoders[wildcards.crosscoder].checkpoint_every,
        **gpu(32, 12),
    conda:
        GPU_ENV
    script:
        "../scripts/train_crosscoder.py"


rule evaluate_crosscoder:
    input:
        unpack(crosscoder_rows),
        weights=CROSSCODER_FILES / "weights.h5",
    output:
        CROSSCODER_FILES / "evaluation.h5",
    params:
        spec=spec("evaluate_crosscoder"),
    log:
        log_of("evaluate_crosscoder", "{crosscoder}/{site}/seed-{seed}"),
    benchmark:
        benchmark_of("evaluate_crosscoder", "{crosscoder}/{site}/seed-{seed}")
    threads: 8
    resources:
        device=STUDY.device,
        **gpu(24, 2),
    conda:
        GPU_ENV
    script:
        "../scripts/evaluate_crosscoder.py"


rule describe_latents:
    input:
        unpack(crosscoder_rows),
        weights=CROSSCODER_FILES / "weights.h5",
    output:
        CROSSCODER_FILES / "latents.h5",
    params:
        spec=spec("describe_latents"),
    log:
        log_of("describe_latents", "{crosscoder}/{site}/seed-{seed}"),
    benchmark:
        benchmark_of("describe_latents", "{crosscoder}/{site}/seed-{seed}")
    threads: 8
    resources:
        device=STUDY.device,
        **gpu(24, 2),
    conda:
        GPU_ENV
    script:
        "../scripts/describe_latents.py"
