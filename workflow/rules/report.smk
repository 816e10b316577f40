# The differences that stand, and the page that shows them.


rule collect_findings:
    input:
        sorted(set(files_in(PAIRS))),
    output:
        table=RESULTS / "findings.tsv",
        findings=RESULTS / "findings.h5",
    log:
        log_of("collect_findings", "findings"),
    benchmark:
        benchmark_of("collect_findings", "findings")
    conda:
        CPU_ENV
    resources:
        **cpu(8),
    params:
        spec=spec("collect_findings", reads={"pairs": PAIRS}),
    script:
        "../scripts/collect_findings.py"


rule build_report:
    input:
        sorted(set(files_in(PAIRS)) | set(files_in(MAKING)) | set(files_in(GEOMETRY))),
        findings=RESULTS / "findings.h5",
    output:
        RESULTS / "report" / "index.html",
    log:
        log_of("build_report", "report"),
    benchmark:
        benchmark_of("build_report", "report")
    conda:
        CPU_ENV
    resources:
        **cpu(8),
    params:
        spec=spec(
            "build_report",
            reads={
                "pairs": PAIRS,
                **MAKING,
                **GEOMETRY,
                "findings": "findings.h5",
            },
            files=sorted((WORKFLOW / "report").iterdir()),
        ),
    script:
        "../scripts/build_report.py"
