# Models made from other models of the study.


def derive_inputs(wildcards):
    """The parent, and the tokens that the derivation reads."""
    model = STUDY.models[wildcards.model]
    inputs = {"parent": model_manifest(model.parent)}
    if model.kind in ("finetune", "plant"):
        inputs["tokens"] = tokens_of(model.corpus, model.parent)
    if model.kind == "finetune":
        inputs["evaluation_tokens"] = tokens_of(model.evaluate_on, model.parent)
    return inputs


rule derive_model:
    input:
        unpack(derive_inputs),
    output:
        RESULTS / "models" / "{model}" / "manifest.json",
    wildcard_constraints:
        model=one_of(m for m in STUDY.models if STUDY.is_derived(m)),
    params:
        spec=spec("derive_model"),
    log:
        log_of("derive_model", "{model}"),
    benchmark:
        benchmark_of("derive_model", "{model}")
    threads: 8
    resources:
        device=STUDY.device,
        **gpu(24, 4),
    conda:
        GPU_ENV
    script:
        "../scripts/derive_model.py"
