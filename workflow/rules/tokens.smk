# Text to tokens, and which token of one tokenizer is which token of another.


rule prepare_tokens:
    input:
        corpus=RESULTS / "corpora" / "{corpus}" / "manifest.json",
        tokenizer=RESULTS / "models" / "{tokenizer}" / "manifest.json",
    output:
        RESULTS / "tokens" / "{corpus}" / "{tokenizer}.h5",
    log:
        log_of("prepare_tokens", "{corpus}/{tokenizer}"),
    benchmark:
        benchmark_of("prepare_tokens", "{corpus}/{tokenizer}")
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
        a=RESULTS / "tokens" / "{corpus}" / "{tokenizer_a}.h5",
        b=RESULTS / "tokens" / "{corpus}" / "{tokenizer_b}.h5",
    output:
        RESULTS / "alignments" / "{corpus}" / "{tokenizer_a}--{tokenizer_b}.h5",
    log:
        log_of("align_tokens", "{corpus}/{tokenizer_a}--{tokenizer_b}"),
    benchmark:
        benchmark_of("align_tokens", "{corpus}/{tokenizer_a}--{tokenizer_b}")
    conda:
        CPU_ENV
    resources:
        **cpu(8),
    params:
        spec=spec("align_tokens"),
    script:
        "../scripts/align_tokens.py"
