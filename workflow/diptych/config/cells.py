"""Descriptions of the comparisons of a study, with their files, and of the other inputs of the page.

A comparison is of a pair of models as a whole, or of a cell: one site of each. Findings, similarity and report read
them; each is described by aliases and by paths relative to the results directory, so that its description can be part
of a spec:

    all_cells(layout)[0]
    # {"name": "tuned", "role": "compared", "site_a": "middle", "site_b": "middle", "a": "base", "b": "tuned",
    #  "corpus": "text", "files": {"linear_map": "pairs/tuned/middle--middle/linear_map.h5", ...}, ...}

A pair as a whole is described in the same way, with "" for its sites.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diptych.config import known_edits
from diptych.config.layout import Layout
from diptych.config.relations import relations
from diptych.config.sections.models import Distill
from diptych.config.study import Study

Description = dict[str, Any]
"""Aliases and relative paths of a comparison, a crosscoder run or the page's inputs, for JSON."""


def comparisons(layout: Layout) -> list[Description]:
    """Every comparison, sorted by the pair's alias: each pair as a whole before its cells."""
    described = [*whole_pairs(layout), *all_cells(layout)]
    return sorted(described, key=lambda comparison: str(comparison["name"]))


def whole_pairs(layout: Layout) -> list[Description]:
    """Every pair as a whole; of pairs of the same models and corpus the first."""
    return [_described(layout, name, "", "", whole_files_of(layout, name)) for name in layout.study.whole_pairs]


def all_cells(layout: Layout) -> list[Description]:
    """Every cell of every pair, sorted by the pair's alias."""
    study = layout.study
    return [
        _described(layout, name, site_a, site_b, files_of(layout, name, site_a, site_b))
        for name in study.compared_pairs
        for site_a, site_b in study.cells(name)
    ]


def _described(layout: Layout, pair: str, site_a: str, site_b: str, files: Description) -> Description:
    study, edit = layout.study, known_edits.of_pair(layout, pair)
    return {
        "name": pair,
        "role": study.role(pair, site_a, site_b),
        "site_a": site_a,
        "site_b": site_b,
        "files": files,
        **({"edit": edit} if edit else {}),
        "a": study.pairs[pair].a,
        "b": study.pairs[pair].b,
        "corpus": study.pairs[pair].corpus,
        "dictionary_a": study.dictionary(pair, "a", site_a),
        "dictionary_b": study.dictionary(pair, "b", site_b),
    }


def whole_files_of(layout: Layout, pair: str) -> Description:
    """The files of a pair as a whole by content."""
    study, section = layout.study, layout.study.pairs[pair]
    files = {
        **_text_of(layout, pair),
        "outputs": layout.relative(layout.outputs(pair)),
        "weights": layout.relative(layout.weight_changes(pair)),
    }
    if (prompts := study.prompts(pair)) is not None:
        files["prompts"] = layout.relative(layout.tokens_of(prompts, section.a))
    if study.role(pair, "", "") == "planted":
        files["truth"] = layout.relative(layout.truth(section.b))
    return files


def _text_of(layout: Layout, pair: str) -> Description:
    """The tokens of a pair's models, and their alignment if they differ."""
    section = layout.study.pairs[pair]
    files: Description = {
        "tokens_a": layout.relative(layout.tokens_of(section.corpus, section.a)),
        "tokens_b": layout.relative(layout.tokens_of(section.corpus, section.b)),
    }
    if alignment := layout.alignment_of(section.corpus, section.a, section.b):
        files["alignment"] = layout.relative(alignment)
    return files


def files_of(layout: Layout, pair: str, site_a: str, site_b: str) -> Description:
    """The files of one cell by content: a path, a list of paths, or a list of runs."""
    study, section, cell = layout.study, layout.study.pairs[pair], (pair, site_a, site_b)
    files: Description = {**_text_of(layout, pair), **_means(layout, *cell)}
    if not study.has_all_rows(site_a, site_b):
        return files
    files |= {
        "linear_map": layout.relative(layout.linear_map(*cell)),
        "crosscoders": _crosscoders(layout, pair, site_a) if site_a == site_b else [],
        "template_diffs": _template_diffs(layout, pair, site_a) if site_a == site_b else [],
    }
    if study.role(*cell) == "planted":
        files["truth"] = layout.relative(layout.truth(section.b))
    if study.is_steered(*cell):
        files["steering"] = layout.relative(layout.steering(*cell))
    if study.has_features(*cell):
        files |= _features(layout, *cell)
    return files


def steered_runs(layout: Layout, pair: str, site_a: str, site_b: str) -> Description:
    """The trainings that candidates come from: crosscoders, and dictionaries of further seeds without their shards."""
    files = files_of(layout, pair, site_a, site_b)
    of_crosscoder, of_repeat = ("name", "seed", "weights", "latents"), ("pairing", "dictionary_a", "dictionary_b")
    parts = {"crosscoders": of_crosscoder, "repeats": of_repeat}
    return {key: [{part: run[part] for part in parts[key]} for run in files.get(key, ())] for key in parts}


def shards_of_repeats(layout: Layout, pair: str, site_a: str, site_b: str) -> dict[str, list[Path]]:
    """The shards of features of all further seeds of a cell's dictionaries, `repeats_a` and `repeats_b`, by shard."""
    repeats = files_of(layout, pair, site_a, site_b).get("repeats", [])
    of_sides = {side: [repeat[f"features_{side}"] for repeat in repeats] for side in "ab"}
    return {
        f"repeats_{side}": [layout.results / shard for of_shard in zip(*shards, strict=True) for shard in of_shard]
        for side, shards in of_sides.items()
    }


def _means(layout: Layout, pair: str, site_a: str, site_b: str) -> Description:
    """The mean differences at a site, and at all sites of the pair: one family of tests; of unlike sites none."""
    if site_a != site_b:
        return {}
    family = [layout.means(pair, *cell) for cell in layout.study.cells(pair) if cell[0] == cell[1]]
    return {"means": layout.relative(layout.means(pair, site_a, site_b)), "means_of_pair": _relative(layout, family)}


def _features(layout: Layout, pair: str, site_a: str, site_b: str) -> Description:
    study, cell = layout.study, (pair, site_a, site_b)
    files = {
        "correlation": layout.relative(layout.correlation(*cell)),
        "similarity": layout.relative(layout.similarity(*cell)),
        **_paired(layout, *cell),
    }
    if study.reproduces("lan2024", *cell):
        files["lan2024"] = layout.relative(layout.lan2024(*cell))
    if site_a == site_b:
        files["repeats"] = [_paired(layout, repeat, site_a, site_a) for repeat in study.repeats(pair, site_a)]
    return files


def _paired(layout: Layout, pair: str, site_a: str, site_b: str) -> Description:
    """The pairing of two dictionaries, and their features; at equal sites each also on the other model."""
    section = layout.study.pairs[pair]
    dictionary_a, dictionary_b = layout.study.dictionaries_at(pair, site_a, site_b)
    read = {"features_a": (section.a, dictionary_a), "features_b": (section.b, dictionary_b)}
    if site_a == site_b:
        read |= {"features_a_on_b": (section.b, dictionary_a), "features_b_on_a": (section.a, dictionary_b)}
    return {
        "pairing": layout.relative(layout.pairing(pair, site_a, site_b)),
        "dictionary_a": layout.relative(layout.dictionary(dictionary_a)),
        "dictionary_b": layout.relative(layout.dictionary(dictionary_b)),
        **{key: _relative(layout, layout.features_of(section.corpus, *side)) for key, side in read.items()},
    }


def _crosscoders(layout: Layout, pair: str, site: str) -> list[Description]:
    """The runs of every crosscoder of a pair's models at a site, without ceilings."""
    section = layout.study.pairs[pair]
    trained_on = ((section.a, section.b), section.corpus, site)
    return [
        run
        for name, crosscoder in layout.study.crosscoders.items()
        if (crosscoder.models, crosscoder.corpus, crosscoder.site) == trained_on
        and not (crosscoder.independent and section.a == section.b)
        for run in runs_of(layout, name)
    ]


def runs_of(layout: Layout, crosscoder: str) -> list[Description]:
    """The files of every run of a crosscoder."""
    section, ceiling = layout.study.crosscoders[crosscoder], layout.study.ceiling(crosscoder)
    runs = []
    for seed in section.seeds:
        run = (crosscoder, section.site, seed)
        files = {
            "weights": layout.weights(*run),
            "evaluation": layout.evaluation(*run),
            "latents": layout.latents(*run),
        }
        if len(section.seeds) > 1:
            files["seeds"] = layout.seeds(crosscoder, section.site)
        if ceiling:
            files["ceiling"] = layout.latents(ceiling, section.site, seed)
        runs.append({"name": crosscoder, "seed": seed, **{name: layout.relative(path) for name, path in files.items()}})
    return runs


def related_pairs(layout: Layout) -> list[Description]:
    """The relations of the study with the files that their table is made of, pair by pair and site by site."""
    return [
        {
            "name": relation.name,
            "kind": relation.kind,
            "budget": relation.budget,
            "by": list(relation.by),
            "pairs": [_related_pair(layout, pair) for pair in relation.pairs],
        }
        for relation in relations(layout.study)
    ]


def _related_pair(layout: Layout, pair: str) -> Description:
    study, section = layout.study, layout.study.pairs[pair]
    by_whole = {
        (study.pairs[name].a, study.pairs[name].b, study.pairs[name].corpus): name for name in study.whole_pairs
    }
    described: Description = {
        "name": pair,
        "a": section.a,
        "b": section.b,
        "outputs": layout.relative(layout.outputs(by_whole[section.a, section.b, section.corpus])),
        "sites": [
            {
                "site": site,
                "linear_map": layout.relative(layout.linear_map(pair, site, site)),
                "runs": _crosscoders(layout, pair, site),
            }
            for site in section.sites
            if study.has_all_rows(site)
        ],
    }
    if isinstance(study.models[section.b], Distill):
        described["directory"] = _directory(layout, layout.model(section.b))
    return described


def _template_diffs(layout: Layout, pair: str, site: str) -> list[Description]:
    """The files of every template diff of a pair at a site, with those of its repeats."""
    study = layout.study
    compared = (pair, site)
    return [
        {
            **_template_diff(layout, alias),
            "repeats": [_template_diff(layout, repeat) for repeat in study.repeats_of_diff(alias)],
        }
        for alias in sorted(study.reported_diffs)
        if (study.template_diffs[alias].pair, _site_of_diff(study, alias)) == compared
    ]


def _site_of_diff(study: Study, template_diff: str) -> str:
    return study.dictionaries[study.template_diffs[template_diff].dictionary].site


def _template_diff(layout: Layout, alias: str) -> Description:
    diff = layout.study.template_diffs[alias]
    pair = layout.study.pairs[diff.pair]
    return {
        "name": alias,
        "diff": layout.relative(layout.template_diff(alias)),
        "dictionary": layout.relative(layout.dictionary(diff.dictionary)),
        "tokens": layout.relative(layout.tokens_of(diff.corpus, pair.a)),
        "features_a": _relative(layout, layout.features_of(diff.corpus, pair.a, diff.dictionary)),
        "features_b": _relative(layout, layout.features_of(diff.corpus, pair.b, diff.dictionary)),
    }


# --- over all cells -------------------------------------------------------------------------------------------------


def compared_spaces(layout: Layout, file_keys: Sequence[str]) -> list[Description]:
    """The cells whose feature spaces are compared, with these of their files."""
    return [
        {
            **{key: cell[key] for key in ("name", "role", "site_a", "site_b")},
            "files": {key: cell["files"][key] for key in file_keys},
        }
        for cell in all_cells(layout)
        if "similarity" in cell["files"]
    ]


def mapped_spaces(layout: Layout) -> list[Description]:
    """The cells of which UMAP maps are drawn; none of a model with itself."""
    if not layout.study.similarity.map:
        return []
    cells = compared_spaces(layout, ("pairing", "dictionary_a", "dictionary_b"))
    return [cell for cell in cells if cell["role"] in ("compared", "planted")]


def report_inputs(layout: Layout) -> Description:
    """The inputs of the page: comparisons, and the models, corpora, gates, crosscoders, dictionaries behind them."""
    study, compared, cells = layout.study, comparisons(layout), all_cells(layout)
    compared_rows = _compared_rows(layout, cells)
    models = sorted({ancestor for _, model, _ in compared_rows for ancestor in study.lineage(model)})
    dictionaries = sorted(
        {cell[f"dictionary_{side}"] for cell in cells for side in "ab"} - {None}
        | {diff.dictionary for diff in study.template_diffs.values()}
    )
    description: Description = {
        "pairs": compared,
        "models": [
            {"name": model, "directory": _directory(layout, layout.model(model)), "dtype": study.models[model].dtype}
            for model in models
        ],
        "corpora": _corpora(layout, compared_rows, models, dictionaries),
        "gates": [
            {
                "model": model,
                "corpus": corpus,
                "site": site,
                "path": layout.relative(layout.gates_of(corpus, model, site)),
            }
            for corpus, model, site in compared_rows
        ],
        "crosscoders": [
            {
                "name": name,
                "models": list(crosscoder.models),
                "site": crosscoder.site,
                "tokens": layout.relative(layout.tokens_of(crosscoder.corpus, crosscoder.models[0])),
                "runs": runs_of(layout, name),
            }
            for name, crosscoder in study.crosscoders.items()
            if len(crosscoder.models) > 2 and not crosscoder.independent
        ],
        "dictionaries": [
            {"name": name, "directory": _directory(layout, layout.dictionary(name))} for name in dictionaries
        ],
    }
    if relations(study):
        description["relations"] = layout.relative(layout.relations())
    if compared_spaces(layout, ()):
        description["similarity"] = layout.relative(layout.similarity_scores())
    if mapped_spaces(layout):
        description["maps"] = layout.relative(layout.feature_maps())
    return description


def _compared_rows(layout: Layout, cells: Sequence[Description]) -> list[tuple[str, str, str]]:
    """(corpus, model, site) of all rows that are compared."""
    study = layout.study
    rows = {(cell["corpus"], cell[side], cell[f"site_{side}"]) for cell in cells for side in "ab"}
    for diff in study.template_diffs.values():
        pair, site = study.pairs[diff.pair], study.dictionaries[diff.dictionary].site
        rows |= {(diff.corpus, model, site) for model in (pair.a, pair.b)}
    return sorted(rows)


def _corpora(
    layout: Layout, compared_rows: Sequence[tuple[str, str, str]], models: Sequence[str], dictionaries: Sequence[str]
) -> list[Description]:
    """Every corpus that models were compared, derived, or dictionaries trained on, in the tokens of one such model."""
    study = layout.study
    sections = [study.dictionaries[name] for name in dictionaries]
    reader_of = {
        **{section.corpus: section.models[0] for section in sections if section.kind == "trained"},
        **{corpus: study.parent(model) for model in models for corpus in study.corpora_of(model)},
        **{corpus: model for corpus, model, _ in reversed(compared_rows)},
    }
    return [
        {
            "name": corpus,
            "directory": _directory(layout, layout.corpus(corpus)),
            "tokens": layout.relative(layout.tokens_of(corpus, model)),
            "made": [model for model in models if corpus in study.corpora_of(model)],
        }
        for corpus, model in sorted(reader_of.items())
    ]


def files_in(description: Any) -> Iterator[str]:
    """Every path in a description; for a directory its manifest, for a planted truth its model's manifest."""
    if isinstance(description, dict):
        for key, value in description.items():
            if key in ("directory", "truth"):
                path = Path(value) if key == "directory" else Path(value).parent
                yield str(path / "manifest.json")
            else:
                yield from files_in(value)
    elif isinstance(description, list):
        for item in description:
            yield from files_in(item)
    elif isinstance(description, str) and description.endswith((".h5", ".json")):
        yield description


def _relative(layout: Layout, paths: Sequence[Path]) -> list[str]:
    return [layout.relative(path) for path in paths]


def _directory(layout: Layout, manifest: Path) -> str:
    return layout.relative(manifest.parent)
