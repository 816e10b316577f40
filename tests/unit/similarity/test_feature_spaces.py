"""From a pairing to the table of scores, its q, the maps, and what the report says of a grid of sites."""

import copy
import json

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy import stats

import small_study
from diptych.correlation import stage
from diptych.dictionaries import codes, sae
from diptych.page import blocks
from diptych.report import stage as page
from diptych.similarity import feature_maps, figures, grid_section, score_table
from diptych.similarity import inputs as similarity_inputs
from diptych.similarity import section as section
from diptych.similarity import stage as similarity
from diptych.similarity.measures import scores as similarity_scores
from diptych.storage import artifacts


@pytest.fixture(scope="module")
def study():
    return small_study.shared()


def pairs_of(files, **changes):
    given = {**files, **changes}
    loaded = [sae.load(given[f"dictionary_{side}"].removesuffix("/manifest.json")) for side in "ab"]
    return loaded, similarity_inputs.paired_features(
        given["pairing"], *loaded, given["linear_map"], given["correlation"], given["features_a"], given["features_b"]
    )


def test_inputs_are_the_matched_pairs(study):
    """Rows, codes and correlations belong to the same pair: the correlation comes back from the codes."""
    files = study["pairs"][0]["files"]
    (a, b), pairs = pairs_of(files)
    with artifacts.read(files["pairing"], "pairing") as file:
        table = artifacts.read_table(file, "pairs")
        statuses = artifacts.read_json(file, "statuses")
    kept = table["outcome"] == statuses.index("matched")
    assert len(pairs) == kept.sum() > 20
    np.testing.assert_array_equal(pairs.x, a.W_dec[table["a"][kept]])
    np.testing.assert_array_equal(pairs.y, b.W_dec[table["b"][kept]])
    again = [
        np.corrcoef(pairs.codes[0][:, [k]].toarray().ravel(), pairs.codes[1][:, [k]].toarray().ravel())[0, 1]
        for k in range(len(pairs))
    ]
    np.testing.assert_allclose(again, pairs.rho, atol=1e-6)
    assert not pairs.circular
    assert all(1 <= len(tokens) <= 5 for tokens in pairs.tokens_a)


def test_codes_are_those_of_the_documents_that_judged(study):
    files = study["pairs"][0]["files"]
    _, pairs = pairs_of(files)
    both = codes.common_rows(codes.read(files["features_a"]), codes.read(files["features_b"]))
    judged = stage.read(files["correlation"]).halves.of(both[0].document) == 1
    assert pairs.codes[0].shape[0] == judged.sum() < len(both[0])
    assert 0 not in both[0].fold[judged]


def test_a_model_with_itself_is_alike_in_everything(study):
    table = score_table.read(study["similarity"])
    rows = (table["pair"] == "control") & (table["subspace"] == "all") & np.isfinite(table["value"])
    assert rows.sum() >= 6
    np.testing.assert_allclose(table["value"][rows], 1.0, atol=2e-5)


def test_collected_rows_are_those_of_the_cells_and_text_says_the_same(study, tmp_path):
    cells = study["pairs"]
    score_table.collect(cells, tmp_path / "s.h5", tmp_path / "s.tsv", spec={})
    table = score_table.read(tmp_path / "s.h5")
    with artifacts.read(cells[1]["files"]["similarity"], "similarity") as file:
        one = artifacts.read_table(file, "scores")
    mine = table["pair"] == "planted"
    np.testing.assert_array_equal(table["value"][mine], one["value"])
    assert set(table["role"][mine]) == {"planted"}
    header, *lines = (tmp_path / "s.tsv").read_text().splitlines()
    assert header.split("\t") == list(score_table.COLUMNS)
    assert len(lines) == len(table["p"])
    first = dict(zip(score_table.COLUMNS, lines[0].split("\t"), strict=True))
    assert first["measure"] == table["measure"][0]
    assert float(first["n_pairs"]) == table["n_pairs"][0]


def test_q_is_over_one_measure_of_one_pair():
    p = np.array([0.01, 0.04, 0.03, np.nan, 0.01])
    table = {
        "pair": np.array(["x"] * 4 + ["y"]), "points": np.array(["features"] * 5),
        "measure": np.array(["rsa"] * 4 + ["rsa"]), "p": p,
    }  # fmt: skip
    q = score_table.family_q(table)
    np.testing.assert_allclose(q[:3], stats.false_discovery_control(p[:3]))
    assert np.isnan(q[3])
    assert q[4] == 0.01


def test_maps_keep_pairs_together_and_take_the_best(study, tmp_path):
    cell = study["pairs"][0]
    with artifacts.read(cell["files"]["pairing"], "pairing") as file:
        i, j, rho = similarity_inputs.matched_pairs(file)
    feature_maps.draw([cell], tmp_path / "m.h5", spec={}, points=15)
    again = tmp_path / "again.h5"
    feature_maps.draw([cell], again, spec={}, points=15)
    assert again.read_bytes() == (tmp_path / "m.h5").read_bytes()
    drawn = feature_maps.read(tmp_path / "m.h5", "tuned", "middle", "middle")
    assert drawn.a.shape == drawn.b.shape == (15, 2)
    assert np.isfinite(drawn.a).all()
    assert drawn.rho.min() >= np.sort(rho)[-15]
    partner = dict(zip(i.tolist(), j.tolist(), strict=True))
    assert [partner[latent] for latent in drawn.latent_a.tolist()] == drawn.latent_b.tolist()
    assert len(drawn.tokens_a) == 15
    assert feature_maps.read(tmp_path / "m.h5", "tuned", "middle", "last") is None


def test_neighbours_on_the_map_are_neighbours_among_the_rows():
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(3, 8))
    rows = np.concatenate([centre + 0.3 * rng.normal(size=(20, 8)) for centre in centres])
    placed = feature_maps.umap_layout(rows, 10, 0)
    group = np.repeat(np.arange(3), 20)
    distance = np.linalg.norm(placed[:, None] - placed[None], axis=2) + 1e9 * np.eye(60)
    assert (group[distance.argmin(axis=1)] == group).mean() > 0.95
    assert feature_maps.umap_layout(rows[:11], 10, 0).shape == (0, 2)


# --- the report ---


def grid_of(study, tmp_path):
    """The study's first pair as a grid of two sites by two, each cell with its own similarity."""
    cells = []
    for site_a in ("middle", "last"):
        for site_b in ("middle", "last"):
            cell = copy.deepcopy(study["pairs"][0 if site_a == site_b else 3])
            cells.append(cell | {"name": "tuned", "role": "compared", "site_a": site_a, "site_b": site_b})
    path = tmp_path / "grid.h5"
    score_table.collect(cells, path, tmp_path / "grid.tsv", spec={})
    return cells, path


def test_a_grid_is_shown_as_heat_maps_and_lines(study, tmp_path):
    cells, path = grid_of(study, tmp_path)
    out = tmp_path / "index.html"
    inputs = {**study, "pairs": cells, "similarity": str(path)}
    page.build(inputs, out, spec=small_study.SPEC, contexts=2, cells=1)
    html = (tmp_path / "pairs" / "tuned.html").read_text()
    plots = json.loads(html.split('class="figures">', 1)[1].split("</script>", 1)[0])
    heat = plots["grid-tuned-features-knn_jaccard_4"]
    table = score_table.read(path)
    near = (table["measure"] == "knn_jaccard_4") & (table["subspace"] == "all")
    np.testing.assert_allclose(np.array(heat["data"][0]["z"]).ravel(), table["value"][near], rtol=1e-4)
    np.testing.assert_allclose(np.array(heat["data"][1]["z"]).ravel(), np.log10(table["value"][near]), atol=1e-3)
    assert [panel["type"] for panel in heat["data"]] == ["heatmap"] * 3
    assert heat["data"][0]["y"] == ["middle", "last"]
    line = plots["lines-tuned-knn_jaccard_4"]["data"]
    assert [series["name"] for series in line] == ["middle", "middle by chance", "last", "last by chance"]
    np.testing.assert_allclose(line[2]["y"], [table["value"][near][1], table["value"][near][3]], rtol=1e-4)
    np.testing.assert_allclose(line[3]["y"], [table["null_mean"][near][1], table["null_mean"][near][3]], rtol=1e-4)
    for plot in plots.values():
        go.Figure(plot)
    assert "1 of 4 cells" in html
    rho = table["value"][(table["measure"] == "mean_rho") & (table["subspace"] == "all")]
    assert rho[1] == rho.max() > rho[0]  # one model through two dictionaries pairs better than two models
    shown = [
        name for name in ("tuned-middle", "tuned-last", "tuned-middle--last") if f'id="pair-{name}-ladder"' in html
    ]
    assert shown == ["tuned-middle--last"]


def test_layers_are_shown_as_lines_without_heat_maps(study, tmp_path):
    """`sites` with several and no `sites_b`; every site is shown in full below."""
    cells = [copy.deepcopy(study["pairs"][k]) | {"name": "layers", "role": "compared", "site_a": site, "site_b": site}
             for k, site in ((0, "middle"), (3, "last"))]  # fmt: skip
    path = tmp_path / "layers.h5"
    score_table.collect(cells, path, tmp_path / "layers.tsv", spec={})
    inputs = {**study, "pairs": cells, "similarity": str(path)}
    page.build(inputs, tmp_path / "index.html", spec=small_study.SPEC, contexts=1, cells=1)
    html = (tmp_path / "pairs" / "layers.html").read_text()
    plots = json.loads(html.split('class="figures">', 1)[1].split("</script>", 1)[0])
    assert not any(name.startswith("grid-") for name in plots)
    table = score_table.read(path)
    mine = (table["measure"] == "knn_jaccard_4") & (table["subspace"] == "all")
    score, level = plots["lines-layers-knn_jaccard_4"]["data"]
    assert (score["name"], score["x"], level["name"]) == ("features", ["middle", "last"], "features by chance")
    np.testing.assert_allclose(score["y"], table["value"][mine], rtol=1e-4)
    np.testing.assert_allclose(level["y"], table["null_mean"][mine], rtol=1e-4)
    places = [html.index(f'id="{name}"') for name in ("lines-layers-knn_jaccard_4", "pair-layers-middle-ladder",
                                                      "pair-layers-last-ladder")]  # fmt: skip
    assert places == sorted(places)
    assert not grid_section.is_layerwise(cells[:1])


def test_the_published_procedure_stands_beside_ours(study, tmp_path):
    """Each printed number beside the right one of the same name; p without the 1 may be 0, the right one not."""
    cell = copy.deepcopy(study["pairs"][0]) | {"id": "x"}
    cell["files"]["lan2024"] = str(tmp_path / "lan2024.h5")
    with artifacts.create(tmp_path / "lan2024.h5", "lan2024", {}) as file:
        theirs = {"measure": ["mean_rho", "rsa", "svcca"], "value": [0.698, 0.207, 0.678],
                  "null_mean": [np.nan, 0.0, 0.01], "p": [np.nan, 0.0, 0.25]}  # fmt: skip
        file.table("scores", {name: np.array(values) for name, values in theirs.items()}, nan="no level")
        file.json("counts", {"pairs": 321, "rows": 1000, "latents": 400})
    scores = section.StudyScores(study["similarity"])
    table = next(
        block for block in section.section(cell, scores, None).blocks if "lan2024" in getattr(block, "columns", ())
    )
    assert "on 321 pairs and 1,000 rows" in table.caption
    shown = {line[0]: [getattr(part, "text", part) for part in line[1:]] for line in table.rows}
    names = {measure: section.measure_label(measure) for measure in theirs["measure"]}
    assert list(shown) == list(names.values())
    assert shown[names["mean_rho"]][:3] == [".698", "–", "–"]
    assert shown[names["rsa"]][:3] == [".207", "0", "0"]
    assert shown[names["svcca"]][:3] == [".678", ".010", ".250"]
    ours = {row["measure"]: row for row in scores.rows("tuned") if row["subspace"] == "all"}
    for measure, name in names.items():
        assert shown[name][3] == blocks.number(ours[measure]["value"])
        assert shown[name][5] == blocks.p_value(ours[measure]["p"])


def test_what_is_circular_is_said(study, tmp_path):
    cell = study["pairs"][0]
    scores = section.StudyScores(study["similarity"])
    for row in scores.rows("tuned"):
        row["circular"] = True
    shown = section.section({**cell, "id": "x"}, scores, None)
    assert any("Circular" in getattr(block, "text", "") for block in shown.blocks)


def test_neurons_stand_beside_features(study):
    scores = section.StudyScores(study["similarity"])
    rows = scores.rows("tuned")
    scores._rows += [row | {"points": "neurons"} for row in rows]
    table = section.section({**study["pairs"][0], "id": "x"}, scores, None).blocks[1]
    assert sum("neurons" in column for column in table.columns) == 1
    assert len(table.columns) == 13


def test_what_exceeds_chance_and_degenerate_rows_are_shown(study, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 4)), rng.normal(size=(200, 5))
    y[:60, :4] += x[:60]
    x[7], y[3], y[4] = x[6], 0.0, 0.0
    x[:, 2] = 1.0
    cell = copy.deepcopy(study["pairs"][0]) | {"id": "x"}
    cell["files"]["similarity"] = str(tmp_path / "s.h5")
    quick = {"measures": ["cca"], "nuclear_repairings": 9}
    similarity.compare({"features": similarity_scores.Pairs(x, y)}, tmp_path / "s.h5", spec={}, **quick)
    score_table.collect([cell], tmp_path / "t.h5", tmp_path / "t.tsv", spec={})
    shown = section.section(cell, section.StudyScores(tmp_path / "t.h5"), None).blocks
    table = next(block for block in shown if isinstance(block, blocks.Table))
    assert [name.partition(" (")[0] for name in table.columns] == [
        "measure",
        "features",
        "by chance",
        "ratio",
        "z",
        "p",
        "q",
    ]
    lines = [[part.text for part in line] for line in table.rows]
    k = next(k for k, line in enumerate(lines) if line[0] == section.measure_label("mean_squared_cc"))
    header, *rows = ((line.split("\t")) for line in (tmp_path / "t.tsv").read_text().splitlines())
    row = next(dict(zip(header, row, strict=True)) for row in rows if "mean_squared_cc" in row)
    value, level, sd, above, z = (float(row[name]) for name in ("value", "null_mean", "null_sd", "above_null", "z"))
    assert above == pytest.approx((value - level) / (1 - level), abs=1e-5)
    assert z == pytest.approx((value - level) / sd, rel=1e-3)
    assert lines[k][4] == blocks.number(z)
    assert lines[k + 1][:2] == ["of what is possible above chance", blocks.number(above)]
    said = next(block.text for block in shown if getattr(block, "text", "").startswith("Degenerate"))
    assert said == (
        "Degenerate input: features of base: 1 repeated row, 1 constant column; "
        "features of tuned: 1 repeated row, 2 zero rows."
    )
    clean = section.section(study["pairs"][0] | {"id": "x"}, section.StudyScores(study["similarity"]), None).blocks
    assert any("no repeated or zero row" in getattr(block, "text", "") for block in clean)


def test_tokens_in_hover_texts_are_escaped():
    assert figures.hover_lines("<b>a & b</b>", "x\n") == "&lt;b&gt;a &amp; b&lt;/b&gt;<br>x↵"


def test_every_measure_has_a_name():
    from diptych.similarity.measures.scores import Settings, measure_names

    for measure in measure_names(Settings(compat=("lan2024",))):
        assert section.measure_label(measure)
