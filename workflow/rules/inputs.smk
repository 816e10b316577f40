# What the rules of models, text, rows and dictionaries read.
import glob


def model_files(wildcards):
    """The files of a model on disk, so that a changed one is fetched again."""
    path = Path(getattr(STUDY.models[wildcards.model], "path", ""))
    return (
        sorted(path.iterdir())
        if path.is_dir() and path.name
        else [path] * path.is_file()
    )


def corpus_files(wildcards):
    """The files of a corpus on disk and the corpora that it is made of, so that a changed one is fetched again."""
    sources = STUDY.corpora[wildcards.corpus].sources.values()
    patterns = [
        pattern
        for origin in sources
        if origin.kind == "local"
        for pattern in origin.paths
    ]
    files = {
        path for pattern in patterns for path in glob.glob(pattern, recursive=True)
    }
    parts = [
        corpus_manifest(origin.corpus) for origin in sources if origin.kind == "corpus"
    ]
    return sorted(files) + parts


def derive_inputs(wildcards):
    """The parent, and the tokens that the derivation reads."""
    model = STUDY.models[wildcards.model]
    inputs = {"parent": model_manifest(model.parent)}
    if model.kind in ("finetune", "trigger", "plant"):
        inputs["tokens"] = tokens_of(model.corpus, model.parent)
    if model.kind in ("finetune", "trigger"):
        inputs["evaluation_tokens"] = tokens_of(model.evaluate_on, model.parent)
    return inputs


def dictionary_files(wildcards):
    """The files of a dictionary on disk, so that a changed one is fetched again."""
    path = getattr(STUDY.dictionaries[wildcards.dictionary], "path", None)
    return (
        sorted(file for file in Path(path).glob("*") if file.is_file()) if path else []
    )


def dictionary_rows(wildcards):
    """The rows that a dictionary is trained on."""
    dictionary = STUDY.dictionaries[wildcards.dictionary]
    place = (dictionary.corpus, dictionary.model, dictionary.site)
    return {
        "shards": shards_of(*place),
        "gates": gates_of(*place),
        "tokens": tokens_of(dictionary.corpus, dictionary.model),
    }


def feature_rows(wildcards):
    """One shard of the rows that a dictionary is read on."""
    place = (
        wildcards.corpus,
        wildcards.model,
        STUDY.dictionaries[wildcards.dictionary].site,
    )
    return {
        "shards": shards_of(*place)[int(wildcards.shard)],
        "gates": gates_of(*place),
        "tokens": tokens_of(wildcards.corpus, wildcards.model),
        "dictionary": dictionary_manifest(wildcards.dictionary),
    }
