# What tuning did to a dictionary's features at the template's own tokens.
TEMPLATE_FILES = RESULTS / "template_diffs" / "{template_diff}"
PICTURES = [
    template_files(template_diff) / name
    for template_diff in STUDY.template_diffs
    for name in (
        "figures.html",
        "scatter.png",
        "scatter.svg",
        "volcano.png",
        "volcano.svg",
    )
]


rule diff_template_tokens:
    input:
        unpack(template_features),
    output:
        diff=TEMPLATE_FILES / "template_diff.h5",
        gains=TEMPLATE_FILES / "gains.csv",
        targets=TEMPLATE_FILES / "targets.csv",
    log:
        log_of("diff_template_tokens", "{template_diff}"),
    benchmark:
        benchmark_of("diff_template_tokens", "{template_diff}")
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
        TEMPLATE_FILES / "template_diff.h5",
    output:
        page=TEMPLATE_FILES / "figures.html",
        scatter=[TEMPLATE_FILES / f"scatter.{suffix}" for suffix in ("png", "svg")],
        volcano=[TEMPLATE_FILES / f"volcano.{suffix}" for suffix in ("png", "svg")],
    log:
        log_of("draw_template_diff", "{template_diff}"),
    benchmark:
        benchmark_of("draw_template_diff", "{template_diff}")
    conda:
        CPU_ENV
    resources:
        **cpu(4),
    params:
        spec=spec("draw_template_diff", files=sorted((WORKFLOW / "report").iterdir())),
    script:
        "../scripts/draw_template_diff.py"
