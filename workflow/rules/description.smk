# What the findings and the report read, described by alias and by name below RESULTS.


def relative(path):
    """A path below RESULTS as text: what the spec may hold, because it names a thing and no place."""
    return str(path.relative_to(RESULTS))


def runs_of(name):
    """Files of every run of a crosscoder."""
    made, runs = STUDY.crosscoders[name], []
    for seed in made.seeds:
        place = RESULTS / "crosscoders" / name / made.site / f"seed-{seed}"
        files = {
            stage: relative(place / f"{stage}.h5")
            for stage in ("weights", "evaluation", "latents")
        }
        if len(made.seeds) > 1:
            files["seeds"] = relative(place.parent / "seeds.h5")
        if STUDY.ceiling(name):
            twin = RESULTS / "crosscoders" / STUDY.ceiling(name)
            files["ceiling"] = relative(
                twin / made.site / f"seed-{seed}" / "latents.h5"
            )
        runs.append({"name": name, "seed": seed, **files})
    return runs


def crosscoder_runs(pair, site_a, site_b):
    """Files of every run of every crosscoder of a pair's models at a site that both have, ceilings left out."""
    wanted = ((pair.a, pair.b), pair.corpus, site_a)
    return [
        run
        for name, made in STUDY.crosscoders.items()
        if site_a == site_b
        and (made.models, made.corpus, made.site) == wanted
        and not (made.independent and pair.a == pair.b)
        for run in runs_of(name)
    ]


def template_runs(name, site):
    """Files of every template diff of a pair at a site."""
    return [
        {
            "name": alias,
            "diff": relative(template_files(alias) / "template_diff.h5"),
            "dictionary": relative(dictionary_manifest(made.dictionary)),
            "tokens": relative(tokens_of(made.corpus, STUDY.pairs[name].a)),
            "features_a": [
                relative(path)
                for path in features_of(
                    made.corpus, STUDY.pairs[name].a, made.dictionary
                )
            ],
            "features_b": [
                relative(path)
                for path in features_of(
                    made.corpus, STUDY.pairs[name].b, made.dictionary
                )
            ],
        }
        for alias, made in sorted(STUDY.template_diffs.items())
        if (made.pair, STUDY.dictionaries[made.dictionary].site) == (name, site)
    ]


def pair_files(name, site_a, site_b):
    """What there is of a cell of a pair, by stage."""
    pair = STUDY.pairs[name]
    place = RESULTS / "pairs" / name / f"{site_a}--{site_b}"
    files = {
        "linear_map": relative(place / "linear_map.h5"),
        "tokens_a": relative(tokens_of(pair.corpus, pair.a)),
        "tokens_b": relative(tokens_of(pair.corpus, pair.b)),
        "crosscoders": crosscoder_runs(pair, site_a, site_b),
        "template_diffs": template_runs(name, site_a) if site_a == site_b else [],
    }
    if aligned := alignment_of(pair.corpus, pair.a, pair.b):
        files["alignment"] = relative(aligned)
    if STUDY.role(name, site_a, site_b) == "planted":
        files["truth"] = relative(RESULTS / "models" / pair.b / "truth.h5")
    if STUDY.is_steered(name, site_a, site_b):
        files["steering"] = relative(place / "steering.h5")
    if STUDY.has_features(name, site_a, site_b):
        files["correlation"] = relative(place / "correlation.h5")
        files["pairing"] = relative(place / "pairing.h5")
        files["similarity"] = relative(place / "similarity.h5")
        if STUDY.reproduces("lan2024", name, site_a, site_b):
            files["lan2024"] = relative(place / "lan2024.h5")
        for side, other, model, other_model, site in (
            ("a", "b", pair.a, pair.b, site_a),
            ("b", "a", pair.b, pair.a, site_b),
        ):
            dictionary = STUDY.dictionary(name, side, site)
            files[f"dictionary_{side}"] = relative(dictionary_manifest(dictionary))
            files[f"features_{side}"] = [
                relative(path) for path in features_of(pair.corpus, model, dictionary)
            ]
            across = features_of(pair.corpus, other_model, dictionary)
            files[f"features_{side}_on_{other}"] = [relative(path) for path in across]
    return files


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
MAKING = {
    "models": [
        {"name": model, "directory": relative(model_manifest(model).parent)}
        for model in sorted(
            {ancestor for _, model, _ in READ for ancestor in STUDY.lineage(model)}
        )
    ],
    "corpora": [
        {
            "name": corpus,
            "directory": relative(corpus_manifest(corpus).parent),
            "tokens": relative(
                tokens_of(
                    corpus, next(model for made, model, _ in READ if made == corpus)
                )
            ),
        }
        for corpus in sorted({corpus for corpus, _, _ in READ})
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
        for name in sorted(
            {pair[f"dictionary_{side}"] for pair in PAIRS for side in "ab"} - {None}
            | {diff.dictionary for diff in STUDY.template_diffs.values()}
        )
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
