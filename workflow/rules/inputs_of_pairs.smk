# What the rules of pairs, steering and similarity read.


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
    """Both dictionaries, and the codes of each on the other model's rows, where both are read at one site."""
    pair = STUDY.pairs[wildcards.pair]
    dictionary_a, dictionary_b = cell_dictionaries(wildcards)
    inputs = {
        "dictionary_a": dictionary_manifest(dictionary_a),
        "dictionary_b": dictionary_manifest(dictionary_b),
        "tokens_b": tokens_of(pair.corpus, pair.b),
    }
    if wildcards.site_a == wildcards.site_b:
        inputs["features_a_on_b"] = features_of(pair.corpus, pair.b, dictionary_a)
        inputs["features_b_on_a"] = features_of(pair.corpus, pair.a, dictionary_b)
    return inputs


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
