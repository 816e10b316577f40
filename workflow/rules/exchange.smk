# Crosscoders that come from elsewhere, and those that leave.


rule import_crosscoder:
    input:
        lambda wildcards: STUDY.crosscoders[wildcards.crosscoder].weights,
    output:
        CROSSCODER_FILES / "weights.h5",
    log:
        log_of("import_crosscoder", "{crosscoder}/{site}/seed-{seed}"),
    benchmark:
        benchmark_of("import_crosscoder", "{crosscoder}/{site}/seed-{seed}")
    wildcard_constraints:
        crosscoder=one_of(
            name for name, made in STUDY.crosscoders.items() if made.weights
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
        CROSSCODER_FILES / "weights.h5",
    output:
        CROSSCODER_FILES / "export" / "manifest.json",
        CROSSCODER_FILES / "export" / "model.safetensors",
        CROSSCODER_FILES / "export" / "config.json",
    log:
        log_of("export_crosscoder", "{crosscoder}/{site}/seed-{seed}"),
    benchmark:
        benchmark_of("export_crosscoder", "{crosscoder}/{site}/seed-{seed}")
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
        all_exports(),
