# Where things are.


def model_manifest(model):
    return RESULTS / "models" / model / "manifest.json"


def corpus_manifest(corpus):
    return RESULTS / "corpora" / corpus / "manifest.json"


def tokens_of(corpus, model):
    return RESULTS / "tokens" / corpus / f"{STUDY.tokenizer(model)}.h5"


def shards_of(corpus, model, site):
    place = RESULTS / "activations" / corpus / model / STUDY.group(site)
    return [place / f"{shard}.h5" for shard in range(STUDY.activations.shards)]


def gates_of(corpus, model, site):
    return RESULTS / "activations" / corpus / model / STUDY.group(site) / "gates.h5"


def features_of(corpus, model, dictionary):
    place = RESULTS / "features" / corpus / model / dictionary
    return [place / f"{shard}.h5" for shard in range(STUDY.activations.shards)]


def alignment_of(corpus, a, b):
    """The alignment of two models' tokens; none where they share a tokenizer."""
    if STUDY.tokenizer(a) == STUDY.tokenizer(b):
        return []
    return (
        RESULTS
        / "alignments"
        / corpus
        / f"{STUDY.tokenizer(a)}--{STUDY.tokenizer(b)}.h5"
    )


def dictionary_manifest(dictionary):
    return RESULTS / "dictionaries" / dictionary / "manifest.json"


def template_files(template_diff):
    return RESULTS / "template_diffs" / template_diff
