# Change of a dictionary's features at the tokens of the chat template.


rule diff_template_tokens:
    input:
        unpack(inputs("diff_template_tokens")),
    output:
        diff=LAYOUT.template_diff("{template_diff}"),
        gains=report(
            LAYOUT.template_gains("{template_diff}"),
            caption="../report/template_gains.rst",
            category="Template tokens",
            subcategory="{template_diff}",
            labels={"what": "gains and losses", "format": "CSV"},
        ),
        targets=report(
            LAYOUT.template_targets("{template_diff}"),
            caption="../report/template_targets.rst",
            category="Template tokens",
            subcategory="{template_diff}",
            labels={"what": "features of target prompts", "format": "CSV"},
        ),
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
        page=report(
            LAYOUT.template_figures("{template_diff}"),
            caption="../report/template_figures.rst",
            category="Template tokens",
            subcategory="{template_diff}",
            labels={"what": "figures with hover text", "format": "HTML"},
        ),
        scatter=[
            report(
                image,
                caption="../report/template_scatter.rst",
                category="Template tokens",
                subcategory="{template_diff}",
                labels={"what": "B against A", "format": image.suffix[1:].upper()},
            )
            for image in LAYOUT.template_scatter("{template_diff}")
        ],
        volcano=[
            report(
                image,
                caption="../report/template_volcano.rst",
                category="Template tokens",
                subcategory="{template_diff}",
                labels={"what": "volcano plot", "format": image.suffix[1:].upper()},
            )
            for image in LAYOUT.template_volcano("{template_diff}")
        ],
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
