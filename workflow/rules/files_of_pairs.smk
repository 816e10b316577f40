# Where the files of each pair are, by stage.


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
            if site_a == site_b:
                across = features_of(pair.corpus, other_model, dictionary)
                files[f"features_{side}_on_{other}"] = [
                    relative(path) for path in across
                ]
    return files
