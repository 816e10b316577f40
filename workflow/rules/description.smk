# What the findings and the report read, described by alias and by name below RESULTS.
PAIRS = [
    {
        "name": name,
        "role": STUDY.role(name, site_a, site_b),
        "site_a": site_a,
        "site_b": site_b,
        "files": pair_files(name, site_a, site_b),
        "a": STUDY.pairs[name].a,
        "b": STUDY.pairs[name].b,
        "corpus": STUDY.pairs[name].corpus,
        "dictionary_a": STUDY.dictionary(name, "a", site_a),
        "dictionary_b": STUDY.dictionary(name, "b", site_b),
    }
    for name in sorted(STUDY.pairs)
    for site_a, site_b in STUDY.cells(name)
]


def spaces(*kinds):
    """The cells whose features are compared by geometry, with some of their files."""
    return [
        {
            **{key: pair[key] for key in ("name", "role", "site_a", "site_b")},
            "files": {kind: pair["files"][kind] for kind in kinds},
        }
        for pair in PAIRS
        if "similarity" in pair["files"]
    ]


SCORED = spaces("similarity")
# A model with itself needs no map.
MAPPED = [
    cell
    for cell in spaces("pairing", "dictionary_a", "dictionary_b")
    if STUDY.similarity.map and cell["role"] in ("compared", "planted")
]
GEOMETRY = {
    **({"similarity": "similarity.h5"} if SCORED else {}),
    **({"maps": "maps.h5"} if MAPPED else {}),
}
READ = sorted(
    {
        (pair["corpus"], pair[side], pair[f"site_{side}"])
        for pair in PAIRS
        for side in "ab"
    }
    | {
        (
            diff.corpus,
            model,
            STUDY.dictionaries[diff.dictionary].site,
        )
        for diff in STUDY.template_diffs.values()
        for model in (STUDY.pairs[diff.pair].a, STUDY.pairs[diff.pair].b)
    }
)
SHOWN_MODELS = sorted(
    {ancestor for _, model, _ in READ for ancestor in STUDY.lineage(model)}
)
SHOWN_DICTIONARIES = sorted(
    {pair[f"dictionary_{side}"] for pair in PAIRS for side in "ab"} - {None}
    | {diff.dictionary for diff in STUDY.template_diffs.values()}
)
# Every text that was read, by a model that read it: to be compared, and to make what is compared.
TEXTS = {
    **{
        made.corpus: made.model
        for made in map(STUDY.dictionaries.get, SHOWN_DICTIONARIES)
        if made.kind == "trained"
    },
    **{
        corpus: STUDY.models[model].parent
        for model in SHOWN_MODELS
        for corpus in STUDY.texts(model)
    },
    **{corpus: model for corpus, model, _ in reversed(READ)},
}
MAKING = {
    "models": [
        {"name": model, "directory": relative(model_manifest(model).parent)}
        for model in SHOWN_MODELS
    ],
    "corpora": [
        {
            "name": corpus,
            "directory": relative(corpus_manifest(corpus).parent),
            "tokens": relative(tokens_of(corpus, model)),
            "made": [made for made in SHOWN_MODELS if corpus in STUDY.texts(made)],
        }
        for corpus, model in sorted(TEXTS.items())
    ],
    "gates": [
        {
            "model": model,
            "corpus": corpus,
            "site": site,
            "path": relative(gates_of(corpus, model, site)),
        }
        for corpus, model, site in READ
    ],
    "crosscoders": [
        {
            "name": name,
            "models": list(made.models),
            "site": made.site,
            "tokens": relative(tokens_of(made.corpus, made.models[0])),
            "runs": runs_of(name),
        }
        for name, made in STUDY.crosscoders.items()
        if len(made.models) > 2 and not made.independent
    ],
    "dictionaries": [
        {"name": name, "directory": relative(dictionary_manifest(name).parent)}
        for name in SHOWN_DICTIONARIES
    ],
}


def files_in(value):
    """Every file that a description names; a directory by its manifest, a truth by its model's."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("directory", "truth"):
                place = Path(item) if key == "directory" else Path(item).parent
                yield RESULTS / place / "manifest.json"
            else:
                yield from files_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from files_in(item)
    elif isinstance(value, str) and value.endswith((".h5", ".json")):
        yield RESULTS / value
