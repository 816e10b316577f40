"""The cells that a study compares, each with its files, and what the page shows beside them.

A cell is a pair of models at a site of either. Findings, similarity and report read all cells; each is described by
aliases and by paths below the results directory, so that the description can stand in a spec:

    all_cells(layout)[0]
    # {"name": "tuned", "role": "compared", "site_a": "middle", "site_b": "middle", "a": "base", "b": "tuned",
    #  "corpus": "text", "files": {"linear_map": "pairs/tuned/middle--middle/linear_map.h5", ...}, ...}
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diptych.config.layout import Layout

Description = dict[str, Any]


def all_cells(layout: Layout) -> list[Description]:
    """Every cell of every pair, by name of the pair."""
    study = layout.study
    return [
        {
            "name": name,
            "role": study.role(name, site_a, site_b),
            "site_a": site_a,
            "site_b": site_b,
            "files": files_of(layout, name, site_a, site_b),
            "a": study.pairs[name].a,
            "b": study.pairs[name].b,
            "corpus": study.pairs[name].corpus,
            "dictionary_a": study.dictionary(name, "a", site_a),
            "dictionary_b": study.dictionary(name, "b", site_b),
        }
        for name in sorted(study.pairs)
        for site_a, site_b in study.cells(name)
    ]


def files_of(layout: Layout, pair: str, site_a: str, site_b: str) -> Description:
    """The files of one cell: a path, a list of paths, or a list of runs, by what they hold."""
    study, section, cell = layout.study, layout.study.pairs[pair], (pair, site_a, site_b)
    files: Description = {
        "linear_map": layout.below(layout.linear_map(*cell)),
        "tokens_a": layout.below(layout.tokens_of(section.corpus, section.a)),
        "tokens_b": layout.below(layout.tokens_of(section.corpus, section.b)),
        "crosscoders": _crosscoders(layout, pair, site_a) if site_a == site_b else [],
        "template_diffs": _template_diffs(layout, pair, site_a) if site_a == site_b else [],
    }
    if alignment := layout.alignment_of(section.corpus, section.a, section.b):
        files["alignment"] = layout.below(alignment)
    if study.role(*cell) == "planted":
        files["truth"] = layout.below(layout.truth(section.b))
    if study.is_steered(*cell):
        files["steering"] = layout.below(layout.steering(*cell))
    if study.has_features(*cell):
        files |= _features(layout, *cell)
    return files


def _features(layout: Layout, pair: str, site_a: str, site_b: str) -> Description:
    study, section, cell = layout.study, layout.study.pairs[pair], (pair, site_a, site_b)
    own_a, own_b = study.dictionaries_at(*cell)
    files: Description = {
        "correlation": layout.below(layout.correlation(*cell)),
        "pairing": layout.below(layout.pairing(*cell)),
        "similarity": layout.below(layout.similarity(*cell)),
        "dictionary_a": layout.below(layout.dictionary(own_a)),
        "dictionary_b": layout.below(layout.dictionary(own_b)),
        "features_a": _below(layout, layout.features_of(section.corpus, section.a, own_a)),
        "features_b": _below(layout, layout.features_of(section.corpus, section.b, own_b)),
    }
    if study.reproduces("lan2024", *cell):
        files["lan2024"] = layout.below(layout.lan2024(*cell))
    if site_a == site_b:
        files["features_a_on_b"] = _below(layout, layout.features_of(section.corpus, section.b, own_a))
        files["features_b_on_a"] = _below(layout, layout.features_of(section.corpus, section.a, own_b))
    return files


def _crosscoders(layout: Layout, pair: str, site: str) -> list[Description]:
    """The runs of every crosscoder of a pair's models at a site, ceilings left out."""
    section = layout.study.pairs[pair]
    compared = ((section.a, section.b), section.corpus, site)
    return [
        run
        for name, crosscoder in layout.study.crosscoders.items()
        if (crosscoder.models, crosscoder.corpus, crosscoder.site) == compared
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
        runs.append({"name": crosscoder, "seed": seed, **{name: layout.below(path) for name, path in files.items()}})
    return runs


def _template_diffs(layout: Layout, pair: str, site: str) -> list[Description]:
    """The files of every template diff of a pair at a site."""
    study = layout.study
    a, b = study.pairs[pair].a, study.pairs[pair].b
    return [
        {
            "name": alias,
            "diff": layout.below(layout.template_diff(alias)),
            "dictionary": layout.below(layout.dictionary(diff.dictionary)),
            "tokens": layout.below(layout.tokens_of(diff.corpus, a)),
            "features_a": _below(layout, layout.features_of(diff.corpus, a, diff.dictionary)),
            "features_b": _below(layout, layout.features_of(diff.corpus, b, diff.dictionary)),
        }
        for alias, diff in sorted(study.template_diffs.items())
        if (diff.pair, study.dictionaries[diff.dictionary].site) == (pair, site)
    ]


# --- over all cells -------------------------------------------------------------------------------------------------


def compared_spaces(layout: Layout, kinds: Sequence[str]) -> list[Description]:
    """The cells whose feature spaces are compared, with some of their files."""
    return [
        {
            **{key: cell[key] for key in ("name", "role", "site_a", "site_b")},
            "files": {kind: cell["files"][kind] for kind in kinds},
        }
        for cell in all_cells(layout)
        if "similarity" in cell["files"]
    ]


def mapped_spaces(layout: Layout) -> list[Description]:
    """The cells of which UMAP maps are drawn; a model with itself needs none."""
    if not layout.study.similarity.map:
        return []
    spaces = compared_spaces(layout, ("pairing", "dictionary_a", "dictionary_b"))
    return [space for space in spaces if space["role"] in ("compared", "planted")]


def report_inputs(layout: Layout) -> Description:
    """What the page shows: the cells, and models, texts, gates, crosscoders and dictionaries behind them."""
    study, pairs = layout.study, all_cells(layout)
    read = _sites_read(layout, pairs)
    models = sorted({ancestor for _, model, _ in read for ancestor in study.lineage(model)})
    dictionaries = sorted(
        {cell[f"dictionary_{side}"] for cell in pairs for side in "ab"} - {None}
        | {diff.dictionary for diff in study.template_diffs.values()}
    )
    description: Description = {
        "pairs": pairs,
        "models": [{"name": model, "directory": _directory(layout, layout.model(model))} for model in models],
        "corpora": _texts(layout, read, models, dictionaries),
        "gates": [
            {
                "model": model,
                "corpus": corpus,
                "site": site,
                "path": layout.below(layout.gates_of(corpus, model, site)),
            }
            for corpus, model, site in read
        ],
        "crosscoders": [
            {
                "name": name,
                "models": list(crosscoder.models),
                "site": crosscoder.site,
                "tokens": layout.below(layout.tokens_of(crosscoder.corpus, crosscoder.models[0])),
                "runs": runs_of(layout, name),
            }
            for name, crosscoder in study.crosscoders.items()
            if len(crosscoder.models) > 2 and not crosscoder.independent
        ],
        "dictionaries": [
            {"name": name, "directory": _directory(layout, layout.dictionary(name))} for name in dictionaries
        ],
    }
    if compared_spaces(layout, ()):
        description["similarity"] = layout.below(layout.similarity_scores())
    if mapped_spaces(layout):
        description["maps"] = layout.below(layout.feature_maps())
    return description


def _sites_read(layout: Layout, pairs: Sequence[Description]) -> list[tuple[str, str, str]]:
    """(corpus, model, site) of all rows that are compared."""
    study = layout.study
    read = {(cell["corpus"], cell[side], cell[f"site_{side}"]) for cell in pairs for side in "ab"}
    for diff in study.template_diffs.values():
        pair, site = study.pairs[diff.pair], study.dictionaries[diff.dictionary].site
        read |= {(diff.corpus, model, site) for model in (pair.a, pair.b)}
    return sorted(read)


def _texts(
    layout: Layout, read: Sequence[tuple[str, str, str]], models: Sequence[str], dictionaries: Sequence[str]
) -> list[Description]:
    """Every text that was read, in the tokens of a model that read it: to be compared, and to make what is compared."""
    study = layout.study
    trained = [study.dictionaries[name] for name in dictionaries]
    readers = {
        **{section.corpus: section.model for section in trained if section.kind == "trained"},
        **{corpus: study.parent(model) for model in models for corpus in study.texts(model)},
        **{corpus: model for corpus, model, _ in reversed(read)},
    }
    return [
        {
            "name": corpus,
            "directory": _directory(layout, layout.corpus(corpus)),
            "tokens": layout.below(layout.tokens_of(corpus, model)),
            "made": [model for model in models if corpus in study.texts(model)],
        }
        for corpus, model in sorted(readers.items())
    ]


def files_in(description: Any) -> Iterator[str]:
    """Every path that a description names; a directory by its manifest, a truth by its model's."""
    if isinstance(description, dict):
        for key, item in description.items():
            if key in ("directory", "truth"):
                path = Path(item) if key == "directory" else Path(item).parent
                yield str(path / "manifest.json")
            else:
                yield from files_in(item)
    elif isinstance(description, list):
        for item in description:
            yield from files_in(item)
    elif isinstance(description, str) and description.endswith((".h5", ".json")):
        yield description


def _below(layout: Layout, paths: Sequence[Path]) -> list[str]:
    return [layout.below(path) for path in paths]


def _directory(layout: Layout, manifest: Path) -> str:
    return layout.below(manifest.parent)
