# Steering of both models of a pair along its candidates.


rule steer_features:
    input:
        unpack(inputs("steer_features")),
    output:
        steering=LAYOUT.steering(*PAIR),
        table=report(
            LAYOUT.steering_table(*PAIR),
            caption="../report/steering.rst",
            category="Pairs",
            subcategory="{pair}",
            labels={"table": "steering", "sites": "{site_a}, {site_b}"},
        ),
    log:
        LAYOUT.log("steer_features", PAIR_NAME),
    benchmark:
        LAYOUT.benchmark("steer_features", PAIR_NAME)
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
        **gpu(24, 2, "steer_features"),
    params:
        spec=spec("steer_features"),
    script:
        "../scripts/steer_features.py"
