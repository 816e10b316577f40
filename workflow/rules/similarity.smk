# Similarity scores of all pairs in one table with their q, and UMAP maps.


rule collect_similarity:
    input:
        unpack(inputs("collect_similarity")),
    output:
        table=report(
            LAYOUT.similarity_table(),
            caption="../report/similarity.rst",
            category="Similarity",
            labels={"table": "similarity of feature spaces"},
        ),
        scores=LAYOUT.similarity_scores(),
    log:
        LAYOUT.log("collect_similarity", "similarity"),
    benchmark:
        LAYOUT.benchmark("collect_similarity", "similarity")
    conda:
        CPU_ENV
    resources:
        **cpu(4),
    params:
        spec=spec("collect_similarity"),
    script:
        "../scripts/collect_similarity.py"


rule map_spaces:
    input:
        unpack(inputs("map_spaces")),
    output:
        LAYOUT.feature_maps(),
    log:
        LAYOUT.log("map_spaces", "maps"),
    benchmark:
        LAYOUT.benchmark("map_spaces", "maps")
    conda:
        CPU_ENV
    resources:
        **cpu(16, 4),
    params:
        spec=spec("map_spaces"),
    script:
        "../scripts/map_spaces.py"
