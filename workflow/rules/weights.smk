# The weights of two models, tensor by tensor.


rule compare_weights:
    input:
        unpack(inputs("compare_weights")),
    output:
        weights=LAYOUT.weight_changes("{pair}"),
        table=report(
            LAYOUT.weight_changes_table("{pair}"),
            caption="../report/weights.rst",
            category="Pairs",
            subcategory="{pair}",
            labels={"table": "weights"},
        ),
    log:
        LAYOUT.log("compare_weights", "{pair}"),
    benchmark:
        LAYOUT.benchmark("compare_weights", "{pair}")
    conda:
        CPU_ENV
    threads: 4
    resources:
        **cpu(16, 2),
    params:
        spec=spec("compare_weights"),
    script:
        "../scripts/compare_weights.py"
