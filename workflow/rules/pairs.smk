# Two models without a crosscoder: the map between their spaces, their features' correlation, pairing and geometry.
PAIR_FILES = RESULTS / "pairs" / "{pair}" / "{site_a}--{site_b}"


rule fit_linear_map:
    input:
        unpack(pair_rows),
    output:
        linear_map=PAIR_FILES / "linear_map.h5",
        ladder=PAIR_FILES / "ladder.tsv",
    log:
        log_of("fit_linear_map", "{pair}/{site_a}--{site_b}"),
    benchmark:
        benchmark_of("fit_linear_map", "{pair}/{site_a}--{site_b}")
    conda:
        CPU_ENV
    threads: 8
    resources:
        **cpu(16, 2),
    params:
        spec=spec("fit_linear_map"),
    script:
        "../scripts/fit_linear_map.py"


rule correlate_features:
    input:
        unpack(own_features),
    output:
        PAIR_FILES / "correlation.h5",
    log:
        log_of("correlate_features", "{pair}/{site_a}--{site_b}"),
    benchmark:
        benchmark_of("correlate_features", "{pair}/{site_a}--{site_b}")
    conda:
        CPU_ENV
    threads: 8
    resources:
        **cpu(16, 2),
        correlation_mib=STUDY.correlation.memory,
    params:
        spec=spec("correlate_features"),
    script:
        "../scripts/correlate_features.py"


rule pair_features:
    input:
        unpack(own_features),
        unpack(cross_features),
        correlation=PAIR_FILES / "correlation.h5",
        linear_map=PAIR_FILES / "linear_map.h5",
    output:
        pairing=PAIR_FILES / "pairing.h5",
        matches=PAIR_FILES / "matches.tsv",
        unmatched=PAIR_FILES / "unmatched.tsv",
    log:
        log_of("pair_features", "{pair}/{site_a}--{site_b}"),
    benchmark:
        benchmark_of("pair_features", "{pair}/{site_a}--{site_b}")
    conda:
        CPU_ENV
    threads: 4
    resources:
        **cpu(16),
        correlation_mib=STUDY.correlation.memory,
    params:
        spec=spec("pair_features"),
    script:
        "../scripts/pair_features.py"


rule compare_spaces:
    input:
        unpack(own_features),
        unpack(cell_geometry),
        pairing=PAIR_FILES / "pairing.h5",
        linear_map=PAIR_FILES / "linear_map.h5",
    output:
        PAIR_FILES / "similarity.h5",
    log:
        log_of("compare_spaces", "{pair}/{site_a}--{site_b}"),
    benchmark:
        benchmark_of("compare_spaces", "{pair}/{site_a}--{site_b}")
    conda:
        CPU_ENV
    threads: 4
    resources:
        **cpu(16, 2),
        correlation_mib=STUDY.correlation.memory,
    params:
        spec=spec("compare_spaces", files=word_lists()),
    script:
        "../scripts/compare_spaces.py"


rule reproduce_lan2024:
    input:
        unpack(cell_models),
    output:
        PAIR_FILES / "lan2024.h5",
    log:
        log_of("reproduce_lan2024", "{pair}/{site_a}--{site_b}"),
    benchmark:
        benchmark_of("reproduce_lan2024", "{pair}/{site_a}--{site_b}")
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(48, 4),
        correlation_mib=STUDY.correlation.memory,
        device=STUDY.device,
    params:
        spec=spec("reproduce_lan2024"),
    script:
        "../scripts/reproduce_lan2024.py"
