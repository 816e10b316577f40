# What each rule reads.
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
    """The files of a corpus on disk, so that a changed one is fetched again."""
    sources = STUDY.corpora[wildcards.corpus].sources.values()
    patterns = [
        pattern
        for origin in sources
        if origin.kind == "local"
        for pattern in origin.paths
    ]
    return sorted(
        {path for pattern in patterns for path in glob.glob(pattern, recursive=True)}
    )


def derive_inputs(wildcards):
    """The parent, and the tokens that the derivation reads."""
    model = STUDY.models[wildcards.model]
    inputs = {"parent": model_manifest(model.parent)}
    if model.kind in ("finetune", "plant"):
        inputs["tokens"] = tokens_of(model.corpus, model.parent)
    if model.kind == "finetune":
        inputs["evaluation_tokens"] = tokens_of(model.evaluate_on, model.parent)
    return inputs


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


def pair_rows(wildcards):
    """Both models' rows at the sites compared."""
    pair = STUDY.pairs[wildcards.pair]
    a, b = (pair.corpus, pair.a, wildcards.site_a), (
        pair.corpus,
        pair.b,
        wildcards.site_b,
    )
    return {
        "shards_a": shards_of(*a),
        "shards_b": shards_of(*b),
        "gates_a": gates_of(*a),
        "gates_b": gates_of(*b),
        "tokens_a": tokens_of(pair.corpus, pair.a),
        "tokens_b": tokens_of(pair.corpus, pair.b),
        "alignment": alignment_of(pair.corpus, pair.a, pair.b),
    }


def own_features(wildcards):
    """The codes of each model's own dictionary on its own rows."""
    pair = STUDY.pairs[wildcards.pair]
    return {
        "features_a": features_of(pair.corpus, pair.a, pair.dictionary_a),
        "features_b": features_of(pair.corpus, pair.b, pair.dictionary_b),
        "alignment": alignment_of(pair.corpus, pair.a, pair.b),
    }


def cross_features(wildcards):
    """The codes of each dictionary on the other model's rows."""
    pair = STUDY.pairs[wildcards.pair]
    return {
        "features_a_on_b": features_of(pair.corpus, pair.b, pair.dictionary_a),
        "features_b_on_a": features_of(pair.corpus, pair.a, pair.dictionary_b),
        "dictionary_a": dictionary_manifest(pair.dictionary_a),
        "dictionary_b": dictionary_manifest(pair.dictionary_b),
        "tokens_a": tokens_of(pair.corpus, pair.a),
        "tokens_b": tokens_of(pair.corpus, pair.b),
    }


def crosscoder_rows(wildcards):
    """The rows of all models of a crosscoder."""
    crosscoder = STUDY.crosscoders[wildcards.crosscoder]
    places = [(crosscoder.corpus, model, wildcards.site) for model in crosscoder.models]
    return {
        "shards": [shard for place in places for shard in shards_of(*place)],
        "gates": [gates_of(*place) for place in places],
        "tokens": [tokens_of(crosscoder.corpus, model) for model in crosscoder.models],
        "alignment": alignment_of(crosscoder.corpus, *crosscoder.models[:2]),
    }


def crosscoder_models(wildcards):
    """The models of a crosscoder, where their loss is measured with its reconstructions in place."""
    crosscoder = STUDY.crosscoders[wildcards.crosscoder]
    if not crosscoder.splice_tokens:
        return {}
    return {"models": [model_manifest(model) for model in crosscoder.models]}


def how_trained(wildcards):
    """The config of a crosscoder, for what its rule may use."""
    return STUDY.crosscoders[wildcards.crosscoder]


def runs_of_seeds(wildcards):
    """The weights of every run of a crosscoder."""
    place = RESULTS / "crosscoders" / wildcards.crosscoder / wildcards.site
    seeds = STUDY.crosscoders[wildcards.crosscoder].seeds
    return [place / f"seed-{seed}" / "weights.h5" for seed in seeds]


def all_exports():
    """The exports of all runs of all crosscoders that are trained here."""
    return [
        RESULTS / "crosscoders" / name / made.site / f"seed-{seed}/export/manifest.json"
        for name, made in STUDY.crosscoders.items()
        for seed in made.seeds
        if not made.weights
    ]
