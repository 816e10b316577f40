# What comes from outside: models and text. On the submitting machine, because compute nodes have no internet.
import glob


localrules:
    fetch_model,
    fetch_corpus,


def model_files(wildcards):
    """The files of a model on disk, so that a changed one is fetched again."""
    path = Path(getattr(STUDY.models[wildcards.model], "path", ""))
    return sorted(path.iterdir()) if path.is_dir() and path.name else [path] * path.is_file()


def corpus_files(wildcards):
    """The files of a corpus on disk, so that a changed one is fetched again."""
    sources = STUDY.corpora[wildcards.corpus].sources.values()
    patterns = [pattern for origin in sources if origin.kind == "local" for pattern in origin.paths]
    return sorted({path for pattern in patterns for path in glob.glob(pattern, recursive=True)})


rule fetch_model:
    input:
        model_files,
    output:
        RESULTS / "models" / "{model}" / "manifest.json",
    wildcard_constraints:
        model=one_of(m for m in STUDY.models if not STUDY.is_derived(m)),
    params:
        spec=spec("fetch_model"),
    log:
        log_of("fetch_model", "{model}"),
    benchmark:
        benchmark_of("fetch_model", "{model}")
    resources:
        **cpu(8),
    conda:
        CPU_ENV
    script:
        "../scripts/fetch_model.py"


rule fetch_corpus:
    input:
        corpus_files,
    output:
        RESULTS / "corpora" / "{corpus}" / "manifest.json",
    params:
        spec=spec("fetch_corpus"),
    log:
        log_of("fetch_corpus", "{corpus}"),
    benchmark:
        benchmark_of("fetch_corpus", "{corpus}")
    resources:
        **cpu(4),
    conda:
        CPU_ENV
    script:
        "../scripts/fetch_corpus.py"
