# Activations of all sites of a group from one forward pass, and the gates on them.


rule dump_activations:
    input:
        unpack(inputs("dump_activations")),
    output:
        LAYOUT.activations("{corpus}", "{model}", "{group}", "{shard}"),
    log:
        LAYOUT.log("dump_activations", "{corpus}/{model}/{group}/{shard}"),
    # Studies share it between workflows (`--cache`); Snakemake forbids `benchmark:` there, the job keeps an account.
    cache: True
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 4, "dump_activations"),
    params:
        spec=spec("dump_activations"),
    script:
        "../scripts/dump_activations.py"


rule gate_activations:
    input:
        unpack(inputs("gate_activations")),
    output:
        LAYOUT.gates("{corpus}", "{model}", "{group}"),
    log:
        LAYOUT.log("gate_activations", "{corpus}/{model}/{group}"),
    benchmark:
        LAYOUT.benchmark("gate_activations", "{corpus}/{model}/{group}")
    conda:
        CPU_ENV
    resources:
        **cpu(8),
    params:
        spec=spec("gate_activations"),
    script:
        "../scripts/gate_activations.py"
