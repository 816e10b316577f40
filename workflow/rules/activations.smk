# Model and tokens to rows: one forward pass for all sites of a group, then which rows count.


rule dump_activations:
    input:
        model=RESULTS / "models" / "{model}" / "manifest.json",
        tokens=lambda wildcards: tokens_of(wildcards.corpus, wildcards.model),
    output:
        RESULTS / "activations" / "{corpus}" / "{model}" / "{group}" / "{shard}.h5",
    log:
        log_of("dump_activations", "{corpus}/{model}/{group}/{shard}"),
    benchmark:
        benchmark_of("dump_activations", "{corpus}/{model}/{group}/{shard}")
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 4),
        device=STUDY.device,
    params:
        spec=spec("dump_activations"),
    script:
        "../scripts/dump_activations.py"


rule gate_activations:
    input:
        shards=expand(
            RESULTS
            / "activations"
            / "{{corpus}}"
            / "{{model}}"
            / "{{group}}"
            / "{shard}.h5",
            shard=range(STUDY.activations.shards),
        ),
        tokens=lambda wildcards: tokens_of(wildcards.corpus, wildcards.model),
    output:
        RESULTS / "activations" / "{corpus}" / "{model}" / "{group}" / "gates.h5",
    log:
        log_of("gate_activations", "{corpus}/{model}/{group}"),
    benchmark:
        benchmark_of("gate_activations", "{corpus}/{model}/{group}")
    conda:
        CPU_ENV
    resources:
        **cpu(8),
    params:
        spec=spec("gate_activations"),
    script:
        "../scripts/gate_activations.py"
