# What the rules of crosscoders and template diffs read.


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
