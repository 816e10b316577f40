# Change of a dictionary's features at the tokens of the chat template.


rule diff_template_tokens:
    input:
        unpack(inputs("diff_template_tokens")),
    output:
        diff=LAYOUT.template_diff("{template_diff}"),
        gains=LAYOUT.template_gains("{template_diff}"),
        targets=LAYOUT.template_targets("{template_diff}"),
    log:
        LAYOUT.log("diff_template_tokens", "{template_diff}"),
    benchmark:
        LAYOUT.benchmark("diff_template_tokens", "{template_diff}")
    conda:
        CPU_ENV
    threads: 4
    resources:
        **cpu(8, 2),
    params:
        spec=spec("diff_template_tokens"),
    script:
        "../scripts/diff_template_tokens.py"


rule draw_template_diff:
    input:
        unpack(inputs("draw_template_diff")),
    output:
        page=LAYOUT.template_figures("{template_diff}"),
        scatter=LAYOUT.template_scatter("{template_diff}"),
        volcano=LAYOUT.template_volcano("{template_diff}"),
    log:
        LAYOUT.log("draw_template_diff", "{template_diff}"),
    benchmark:
        LAYOUT.benchmark("draw_template_diff", "{template_diff}")
    conda:
        CPU_ENV
    resources:
        **cpu(4),
    params:
        spec=spec("draw_template_diff"),
    script:
        "../scripts/draw_template_diff.py"
