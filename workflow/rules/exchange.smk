# Import of published crosscoders, and export of those trained here.


# Compute nodes have no internet.
localrules:
    import_crosscoder,


rule import_crosscoder:
    input:
        unpack(inputs("import_crosscoder")),
    output:
        LAYOUT.weights(*RUN),
    log:
        LAYOUT.log("import_crosscoder", RUN_NAME),
    benchmark:
        LAYOUT.benchmark("import_crosscoder", RUN_NAME)
    wildcard_constraints:
        crosscoder=one_of(
            name
            for name, crosscoder in STUDY.crosscoders.items()
            if crosscoder.weights
        ),
    conda:
        CPU_ENV
    resources:
        **cpu(16),
    params:
        spec=spec("import_crosscoder"),
    script:
        "../scripts/import_crosscoder.py"


rule export_crosscoder:
    input:
        unpack(inputs("export_crosscoder")),
    output:
        LAYOUT.export(*RUN),
    log:
        LAYOUT.log("export_crosscoder", RUN_NAME),
    benchmark:
        LAYOUT.benchmark("export_crosscoder", RUN_NAME)
    conda:
        CPU_ENV
    resources:
        **cpu(16),
    params:
        spec=spec("export_crosscoder"),
    script:
        "../scripts/export_crosscoder.py"


rule exports:
    input:
        unpack(inputs("exports")),
