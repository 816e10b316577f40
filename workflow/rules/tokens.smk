# Tokens of a corpus, and the alignment of two tokenizers.


rule prepare_tokens:
    input:
        unpack(inputs("prepare_tokens")),
    output:
        LAYOUT.tokens("{corpus}", "{tokenizer}"),
    log:
        LAYOUT.log("prepare_tokens", "{corpus}/{tokenizer}"),
    benchmark:
        LAYOUT.benchmark("prepare_tokens", "{corpus}/{tokenizer}")
    conda:
        CPU_ENV
    resources:
        **cpu(8),
    params:
        spec=spec("prepare_tokens"),
    script:
        "../scripts/prepare_tokens.py"


rule align_tokens:
    input:
        unpack(inputs("align_tokens")),
    output:
        LAYOUT.alignment("{corpus}", "{tokenizer_a}", "{tokenizer_b}"),
    log:
        LAYOUT.log("align_tokens", "{corpus}/{tokenizer_a}--{tokenizer_b}"),
    benchmark:
        LAYOUT.benchmark("align_tokens", "{corpus}/{tokenizer_a}--{tokenizer_b}")
    conda:
        CPU_ENV
    resources:
        **cpu(8),
    params:
        spec=spec("align_tokens"),
    script:
        "../scripts/align_tokens.py"
