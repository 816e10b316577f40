# Two models pushed along what was found between them.


rule steer_features:
    input:
        unpack(steered_pair),
    output:
        steering=PAIR_FILES / "steering.h5",
        table=PAIR_FILES / "steering.tsv",
    log:
        log_of("steer_features", "{pair}/{site_a}--{site_b}"),
    benchmark:
        benchmark_of("steer_features", "{pair}/{site_a}--{site_b}")
    wildcard_constraints:
        pair=one_of(
            name
            for name in STUDY.pairs
            if any(STUDY.is_steered(name, *cell) for cell in STUDY.cells(name))
        ),
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 2),
        device=STUDY.device,
    params:
        spec=spec("steer_features"),
    script:
        "../scripts/steer_features.py"
