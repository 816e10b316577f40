# What two models say differently, and where: their next-token probabilities on the same text.


rule compare_outputs:
    input:
        unpack(inputs("compare_outputs")),
    output:
        outputs=LAYOUT.outputs("{pair}"),
        table=report(
            LAYOUT.outputs_table("{pair}"),
            caption="../report/outputs.rst",
            category="Pairs",
            subcategory="{pair}",
            labels={"table": "outputs"},
        ),
    log:
        LAYOUT.log("compare_outputs", "{pair}"),
    benchmark:
        LAYOUT.benchmark("compare_outputs", "{pair}")
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 2, "compare_outputs"),
    params:
        spec=spec("compare_outputs"),
    script:
        "../scripts/compare_outputs.py"
