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


def cell_dictionaries(wildcards):
    """The two dictionaries of a cell of a pair."""
    return (
        STUDY.dictionary(wildcards.pair, "a", wildcards.site_a),
        STUDY.dictionary(wildcards.pair, "b", wildcards.site_b),
    )


def own_features(wildcards):
    """The codes of each model's own dictionary on its own rows."""
    pair = STUDY.pairs[wildcards.pair]
    dictionary_a, dictionary_b = cell_dictionaries(wildcards)
    return {
        "features_a": features_of(pair.corpus, pair.a, dictionary_a),
        "features_b": features_of(pair.corpus, pair.b, dictionary_b),
        "alignment": alignment_of(pair.corpus, pair.a, pair.b),
        "tokens_a": tokens_of(pair.corpus, pair.a),
    }


def cross_features(wildcards):
    """The codes of each dictionary on the other model's rows."""
    pair = STUDY.pairs[wildcards.pair]
    dictionary_a, dictionary_b = cell_dictionaries(wildcards)
    return {
        "features_a_on_b": features_of(pair.corpus, pair.b, dictionary_a),
        "features_b_on_a": features_of(pair.corpus, pair.a, dictionary_b),
        "dictionary_a": dictionary_manifest(dictionary_a),
        "dictionary_b": dictionary_manifest(dictionary_b),
        "tokens_b": tokens_of(pair.corpus, pair.b),
    }


def steered_pair(wildcards):
    """The models of a pair and what was found between them."""
    pair = STUDY.pairs[wildcards.pair]
    cell = (wildcards.site_a, wildcards.site_b)
    place = RESULTS / "pairs" / wildcards.pair / "--".join(cell)
    inputs = {"linear_map": place / "linear_map.h5"}
    for side, model, site in zip("ab", (pair.a, pair.b), cell):
        inputs[f"model_{side}"] = model_manifest(model)
        inputs[f"gates_{side}"] = gates_of(pair.corpus, model, site)
        inputs[f"tokens_{side}"] = tokens_of(pair.corpus, model)
        if STUDY.has_features(wildcards.pair, *cell):
            dictionary = STUDY.dictionary(wildcards.pair, side, site)
            inputs["pairing"] = place / "pairing.h5"
            inputs[f"dictionary_{side}"] = dictionary_manifest(dictionary)
            inputs[f"features_{side}"] = features_of(pair.corpus, model, dictionary)
    return inputs


def cell_geometry(wildcards):
    """The dictionaries of a cell, which of their codes judged the pairs, and the neurons if they are compared."""
    pair = STUDY.pairs[wildcards.pair]
    dictionary_a, dictionary_b = cell_dictionaries(wildcards)
    place = RESULTS / "pairs" / wildcards.pair
    inputs = {
        "dictionary_a": dictionary_manifest(dictionary_a),
        "dictionary_b": dictionary_manifest(dictionary_b),
        "correlation": place
        / f"{wildcards.site_a}--{wildcards.site_b}"
        / "correlation.h5",
    }
    if STUDY.similarity.neurons:
        for side, model, site in (
            ("a", pair.a, wildcards.site_a),
            ("b", pair.b, wildcards.site_b),
        ):
            neurons = (pair.corpus, model, sites.neurons_of(site))
            inputs |= {
                f"model_{side}": model_manifest(model),
                f"tokens_{side}": tokens_of(pair.corpus, model),
                f"neuron_shards_{side}": shards_of(*neurons),
                f"neuron_gates_{side}": gates_of(*neurons),
            }
    return inputs


def cell_models(wildcards):
    """Both models with their dictionaries and the tokens that both read."""
    pair = STUDY.pairs[wildcards.pair]
    dictionary_a, dictionary_b = cell_dictionaries(wildcards)
    return {
        "model_a": model_manifest(pair.a),
        "model_b": model_manifest(pair.b),
        "dictionary_a": dictionary_manifest(dictionary_a),
        "dictionary_b": dictionary_manifest(dictionary_b),
        "tokens": tokens_of(pair.corpus, pair.a),
    }


def word_lists():
    """The files of the semantic subspaces."""
    return [wordlists.path_of(name) for name in STUDY.similarity.word_lists]


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


def template_features(wildcards):
    """One dictionary on both models of a template diff, and the rows behind the codes."""
    made = STUDY.template_diffs[wildcards.template_diff]
    pair = STUDY.pairs[made.pair]
    site = STUDY.dictionaries[made.dictionary].site
    a, b = (made.corpus, pair.a), (made.corpus, pair.b)
    return {
        "features_a": features_of(*a, made.dictionary),
        "features_b": features_of(*b, made.dictionary),
        "shards_a": shards_of(*a, site),
        "shards_b": shards_of(*b, site),
        "gates_a": gates_of(*a, site),
        "gates_b": gates_of(*b, site),
        "tokens": tokens_of(*a),
        "dictionary": dictionary_manifest(made.dictionary),
    }


def training_rows(wildcards):
    """The rows that a crosscoder is trained on: stored ones, or what it takes to make them while it trains."""
    crosscoder = STUDY.crosscoders[wildcards.crosscoder]
    rows = crosscoder_rows(wildcards)
    if not crosscoder.stream:
        return rows
    models = crosscoder.models
    return {
        "gates": rows["gates"],
        "tokens": rows["tokens"],
        "models": [model_manifest(model) for model in models],
        "stream_tokens": [tokens_of(crosscoder.stream, model) for model in models],
        "stream_alignment": alignment_of(crosscoder.stream, *models[:2]),
    }
