# How alike the feature spaces are over all pairs: the table of scores with their q, and the maps.


rule collect_similarity:
    input:
        sorted(set(files_in(SCORED))),
    output:
        table=RESULTS / "similarity.tsv",
        scores=RESULTS / "similarity.h5",
    log:
        log_of("collect_similarity", "similarity"),
    benchmark:
        benchmark_of("collect_similarity", "similarity")
    conda:
        CPU_ENV
    resources:
        **cpu(4),
    params:
        spec=spec("collect_similarity", reads={"cells": SCORED}),
    script:
        "../scripts/collect_similarity.py"


rule map_spaces:
    input:
        sorted(set(files_in(MAPPED))),
    output:
        RESULTS / "maps.h5",
    log:
        log_of("map_spaces", "maps"),
    benchmark:
        benchmark_of("map_spaces", "maps")
    conda:
        CPU_ENV
    resources:
        **cpu(16, 4),
    params:
        spec=spec("map_spaces", reads={"cells": MAPPED}),
    script:
        "../scripts/map_spaces.py"
