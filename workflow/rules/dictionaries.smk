# Training of sparse autoencoders, and encoding of activations.


rule train_dictionary:
    input:
        unpack(inputs("train_dictionary")),
    output:
        LAYOUT.dictionary("{dictionary}"),
    log:
        LAYOUT.log("train_dictionary", "{dictionary}"),
    benchmark:
        LAYOUT.benchmark("train_dictionary", "{dictionary}")
    wildcard_constraints:
        dictionary=one_of(
            name
            for name, dictionary in STUDY.dictionaries.items()
            if dictionary.kind == "trained"
        ),
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 8),
        checkpoint_every=lambda wildcards: STUDY.dictionaries[
            wildcards.dictionary
        ].checkpoint_every,
    params:
        spec=spec("train_dictionary"),
    script:
        "../scripts/train_dictionary.py"


rule encode_features:
    input:
        unpack(inputs("encode_features")),
    output:
        LAYOUT.features("{corpus}", "{model}", "{dictionary}", "{shard}"),
    log:
        LAYOUT.log("encode_features", "{corpus}/{model}/{dictionary}/{shard}"),
    benchmark:
        LAYOUT.benchmark("encode_features", "{corpus}/{model}/{dictionary}/{shard}")
    conda:
        GPU_ENV
    threads: 8
    resources:
        **gpu(24, 2),
    params:
        spec=spec("encode_features"),
    script:
        "../scripts/encode_features.py"
