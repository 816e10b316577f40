"""Costs of the template diffs, and of what is collected over a study. One job each."""

from diptych.planning.cost import Cost, h5
from diptych.planning.sizes import Sizes

PICTURES = 5.25e6
"""Bytes of a template diff's pictures: 4.9 MB of them are plotly.js, which makes the page stand alone."""
PAGE = 4.9e6
"""Bytes of the report without the pages of its pairs, for the same reason."""
SECTION, POINT = 235_000.0, 270.0
"""Bytes of a comparison's part of a page, and of a feature in its figures (default and test study)."""
POINTS = 5000
"""Features in a figure, at most."""
ROLES = 3
"""Named tokens of a chat template, where the study names none."""


def diff_template_tokens(sizes: Sizes, template_diff: str) -> Cost:
    """Changes of every feature at every named token of the prompts, and `flips` random signs of those that fire.

    A feature takes 370 bytes a token; ranked rows (two directions, three metrics) 490 in the file and 270 in the table.
    """
    section = sizes.study.template_diffs[template_diff]
    features, active = sizes.dictionary(section.dictionary)
    prompts, roles = sizes.sequences(section.corpus), len(section.roles) or ROLES
    pair = sizes.study.pairs[section.pair]
    ranked = 0.0 if pair.a == pair.b else roles * min(6 * section.top, 1.6 * features)
    firing = min(features, prompts * active)
    codes = 2 * sizes.rows(section.corpus) * active * 8
    return Cost(tokens=2 * prompts * roles, flops=4 * section.flips * prompts * roles * firing * 0.1, moved=codes,
                host=3 * codes + roles * prompts * firing * 8, disk=h5(187, ranked * 760 + roles * features * 370),
                memory_key=f"template_diffs.{template_diff}.min_share (larger)")  # fmt: skip


def draw_template_diff(sizes: Sizes, template_diff: str) -> Cost:
    """Interactive figures and images."""
    features = sizes.dictionary(sizes.study.template_diffs[template_diff].dictionary).features
    return Cost(disk=PICTURES + 500 * min(features, POINTS))


def _cells(sizes: Sizes) -> list[tuple[str, str, str]]:
    study = sizes.study
    return [(pair, *cell) for pair in study.compared_pairs for cell in study.cells(pair)]


def collect_similarity(sizes: Sizes) -> Cost:
    """The scores of all cells in one table, as a file and as text."""
    scored = sum(sizes.study.has_features(*cell) for cell in _cells(sizes))
    return Cost(disk=85_000.0 * scored)


def map_spaces(sizes: Sizes) -> Cost:
    """Two-dimensional maps of at most `map_points` pairs of a cell."""
    mapped = sum(sizes.study.has_features(*cell) for cell in _cells(sizes))
    points = mapped * sizes.study.similarity.map_points
    return Cost(tokens=points, disk=h5(4 + 2 * mapped, 0.1 * 16 * points), host=4000.0 * points / max(mapped, 1),
                traffic=2e6 * points)  # fmt: skip


def collect_relations(sizes: Sizes) -> Cost:
    """Some twenty numbers a cell, as a file and as text."""
    return Cost(disk=h5(20, 500.0 * len(_cells(sizes))))


def collect_findings(sizes: Sizes) -> Cost:
    """Tests of all comparisons' candidates: 4 kB each, most of them the tokens that `outputs` lists."""
    study = sizes.study
    different = sum(study.pairs[pair].a != study.pairs[pair].b for pair in study.whole_pairs)
    return Cost(disk=5000.0 * len(_cells(sizes)) + 4000 * 2 * study.outputs.top * different, host=2e7)


def build_report(sizes: Sizes) -> Cost:
    """The pages, and all in one file: plotly.js and the index, a part for every comparison, points of features."""
    study = sizes.study
    shown = [sizes.dictionary(name).features for cell in _cells(sizes) for name in _named(sizes, *cell)]
    shown += [section.n_latents for section in study.crosscoders.values()]
    points = sum(min(features, POINTS) for features in shown)
    return Cost(disk=2 * (PAGE + SECTION * _comparisons(sizes) + POINT * points))


def _named(sizes: Sizes, pair: str, site_a: str, site_b: str) -> tuple[str, ...]:
    """A's dictionary in a cell with two."""
    has_both = sizes.study.has_features(pair, site_a, site_b)
    return (sizes.study.dictionaries_at(pair, site_a, site_b)[0],) if has_both else ()


def _comparisons(sizes: Sizes) -> int:
    return len(_cells(sizes)) + len(sizes.study.whole_pairs)
