# Sparse autoencoders, and the codes they give on each model.


rule train_dictionary:
    input:
        unpack(dictionary_rows),
    output:
        RESULTS / "dictionaries" / "{dictionary}" / "manifest.json",
    log:
        log_of("train_dictionary", "{dictionary}"),
    benchmark:
        benchmark_of("train_dictionary", "{dictionary}")
    wildcard_constraints:
        dictionary=one_of(
            name for name, made in STUDY.dictionaries.items() if made.kind == "trained"
        ),
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 8),
        device=STUDY.device,
        checkpoint_every=lambda wildcards: STUDY.dictionaries[
            wildcards.dictionary
        ].checkpoint_every,
    params:
        spec=spec("train_dictionary"),
    script:
        "../scripts/train_dictionary.py"


rule encode_features:
    input:
        unpack(feature_rows),
    output:
        RESULTS / "features" / "{corpus}" / "{model}" / "{dictionary}" / "{shard}.h5",
    log:
        log_of("encode_features", "{corpus}/{model}/{dictionary}/{shard}"),
    benchmark:
        benchmark_of("encode_features", "{corpus}/{model}/{dictionary}/{shard}")
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 2),
        device=STUDY.device,
    params:
        spec=spec("encode_features"),
    script:
        "../scripts/encode_features.py"
