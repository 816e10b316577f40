# Two models without a crosscoder: the map between their spaces, their features' correlation, pairing and geometry.


rule compare_means:
    input:
        unpack(inputs("compare_means")),
    output:
        LAYOUT.means(*PAIR),
    log:
        LAYOUT.log("compare_means", PAIR_NAME),
    benchmark:
        LAYOUT.benchmark("compare_means", PAIR_NAME)
    conda:
        CPU_ENV
    threads: 4
    resources:
        **cpu(16),
    params:
        spec=spec("compare_means"),
    script:
        "../scripts/compare_means.py"


rule fit_linear_map:
    input:
        unpack(inputs("fit_linear_map")),
    output:
        linear_map=LAYOUT.linear_map(*PAIR),
        ladder=report(
            LAYOUT.ladder(*PAIR),
            caption="../report/ladder.rst",
            category="Pairs",
            subcategory="{pair}",
            labels={"table": "ladder of maps", "sites": "{site_a}, {site_b}"},
        ),
    log:
        LAYOUT.log("fit_linear_map", PAIR_NAME),
    benchmark:
        LAYOUT.benchmark("fit_linear_map", PAIR_NAME)
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(16, 2),
    params:
        spec=spec("fit_linear_map"),
    script:
        "../scripts/fit_linear_map.py"


rule correlate_features:
    input:
        unpack(inputs("correlate_features")),
    output:
        LAYOUT.correlation(*PAIR),
    log:
        LAYOUT.log("correlate_features", PAIR_NAME),
    benchmark:
        LAYOUT.benchmark("correlate_features", PAIR_NAME)
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
        unpack(inputs("pair_features")),
    output:
        pairing=LAYOUT.pairing(*PAIR),
        matches=report(
            LAYOUT.matches(*PAIR),
            caption="../report/matches.rst",
            category="Pairs",
            subcategory="{pair}",
            labels={"table": "matched features", "sites": "{site_a}, {site_b}"},
        ),
        unmatched=report(
            LAYOUT.unmatched(*PAIR),
            caption="../report/unmatched.rst",
            category="Pairs",
            subcategory="{pair}",
            labels={"table": "unmatched features", "sites": "{site_a}, {site_b}"},
        ),
    log:
        LAYOUT.log("pair_features", PAIR_NAME),
    benchmark:
        LAYOUT.benchmark("pair_features", PAIR_NAME)
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
        unpack(inputs("compare_spaces")),
    output:
        LAYOUT.similarity(*PAIR),
    log:
        LAYOUT.log("compare_spaces", PAIR_NAME),
    benchmark:
        LAYOUT.benchmark("compare_spaces", PAIR_NAME)
    conda:
        CPU_ENV
    threads: 4
    resources:
        **cpu(16, 2),
        correlation_mib=STUDY.correlation.memory,
    params:
        spec=spec("compare_spaces"),
    script:
        "../scripts/compare_spaces.py"


rule reproduce_lan2024:
    input:
        unpack(inputs("reproduce_lan2024")),
    output:
        LAYOUT.lan2024(*PAIR),
    log:
        LAYOUT.log("reproduce_lan2024", PAIR_NAME),
    benchmark:
        LAYOUT.benchmark("reproduce_lan2024", PAIR_NAME)
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(48, 4, "reproduce_lan2024"),
        correlation_mib=STUDY.correlation.memory,
    params:
        spec=spec("reproduce_lan2024"),
    script:
        "../scripts/reproduce_lan2024.py"
