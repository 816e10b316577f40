# Relations, findings of all pairs, and the report.


rule collect_relations:
    input:
        unpack(inputs("collect_relations")),
    output:
        table=report(
            LAYOUT.relations_table(),
            caption="../report/relations.rst",
            category="Relations",
            labels={"table": "relations by depth"},
        ),
        relations=LAYOUT.relations(),
    log:
        LAYOUT.log("collect_relations", "relations"),
    benchmark:
        LAYOUT.benchmark("collect_relations", "relations")
    conda:
        CPU_ENV
    resources:
        **cpu(4),
    params:
        spec=spec("collect_relations"),
    script:
        "../scripts/collect_relations.py"


rule collect_findings:
    input:
        unpack(inputs("collect_findings")),
    output:
        table=report(
            LAYOUT.findings_table(),
            caption="../report/findings.rst",
            category="Findings",
            labels={"table": "findings"},
        ),
        edits=report(
            LAYOUT.known_edits(),
            caption="../report/known_edits.rst",
            category="Findings",
            labels={"table": "known edits"},
        ),
        findings=LAYOUT.findings(),
    log:
        LAYOUT.log("collect_findings", "findings"),
    benchmark:
        LAYOUT.benchmark("collect_findings", "findings")
    conda:
        CPU_ENV
    resources:
        **cpu(8),
    params:
        spec=spec("collect_findings"),
    script:
        "../scripts/collect_findings.py"


rule build_report:
    input:
        unpack(inputs("build_report")),
    output:
        index=LAYOUT.report(),
        pages=LAYOUT.report_pages(),
        whole=report(
            LAYOUT.report_file(),
            caption="../report/study.rst",
            category="Report",
            labels={"page": "all pages"},
        ),
    log:
        LAYOUT.log("build_report", "report"),
        costs=LAYOUT.costs(),
    benchmark:
        LAYOUT.benchmark("build_report", "report")
    conda:
        CPU_ENV
    resources:
        **cpu(8),
    params:
        spec=spec("build_report"),
    script:
        "../scripts/build_report.py"
