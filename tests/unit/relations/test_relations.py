"""The table of relations: an identical pair at every depth, unequal widths with and without a ceiling, and words."""

import csv
import json

import numpy as np
import pytest

from diptych.crosscoder.evaluation import latents
from diptych.crosscoder.evaluation import stage as evaluation
from diptych.crosscoder.training import stage as training
from diptych.linear_map import stage as linear_map
from diptych.oracle import planted
from diptych.page import document
from diptych.page.blocks import Banner
from diptych.relations import measures, section, stage
from diptych.storage import artifacts

SITES = ("first", "last")
SIZES = {"n_documents": 40, "tokens_per_document": 30, "n_features": 24}
LOSSES = {"kl": ["kl"], "jacobian": ["jacobian"]}


def write_outputs(path, *, rise):
    """An outputs artifact of which the table by document is read."""
    documents = np.arange(12)
    columns = {
        "document": documents,
        "n": documents + 5,
        "kl_ab": 0.5 + 0.01 * documents,
        "nll_difference": rise + 0 * documents,
    }
    with artifacts.create(path, "outputs", {}) as file:
        file.table("text/documents", columns)


def write_student(directory, *, error):
    directory.mkdir()
    of = {"document": [0, 1, 1, 4], "norm": [1.0, 2.0, 3.0, 2.0], "error": [error, 2 * error, 3 * error, 2 * error]}
    (directory / "training.json").write_text(json.dumps({"sequences": {"old": of}}))


def described_pair(root, name, rows, seeds=(0,), ceiling=None, **settings):
    """A pair with trained crosscoders at two depths, as `config.cells` describes it."""
    root = root / name
    root.mkdir()
    write_outputs(root / "outputs.h5", rise=0.25)
    sites = []
    for place, site in enumerate(SITES):
        linear_map.fit(rows, root / f"{site}.h5", spec={}, bootstrap=10, alphas=(1e-3, 1.0))
        runs = []
        for seed in seeds:
            paths = {key: str(root / f"{site}-{seed}-{key}.h5") for key in ("weights", "evaluation", "latents")}
            training.train(
                rows, paths["weights"], spec={}, n_latents=192, k=6, batch=128, steps=40 + 10 * place, seed=seed,
                learning_rate=1e-3, **settings,
            )  # fmt: skip
            evaluation.evaluate(paths["weights"], rows, paths["evaluation"], spec={})
            latents.describe(paths["weights"], rows, paths["latents"], spec={}, n_bootstrap=40)
            more = {"ceiling": ceiling} if ceiling else {}
            runs.append({"name": f"{name}_{site}", "seed": seed, **paths, **more})
        sites.append({"site": site, "linear_map": str(root / f"{site}.h5"), "runs": runs})
    return {"name": name, "a": "base", "b": name, "outputs": str(root / "outputs.h5"), "sites": sites}


@pytest.fixture(scope="module")
def relations(tmp_path_factory):
    """Identical, unequal widths without and with a ceiling, and two students of one budget."""
    root = tmp_path_factory.mktemp("relations")
    same = planted.identical_pair(**SIZES).rows()
    apart = planted.make_pair(d_A=24, d_B=32, d_0=24, noise=0.01, **SIZES).rows()
    identical = described_pair(root, "base", same, seeds=(0, 1))
    ceiling = described_pair(root, "ceiling", same, independent=True)["sites"][0]["runs"][0]["latents"]
    wide = described_pair(root, "wide", apart)
    judged = {**wide, "sites": [
        {**site, "runs": [{**run, "ceiling": ceiling} for run in site["runs"]]} for site in wide["sites"]
    ]}  # fmt: skip
    students = {}
    for name, error in (("kl", 0.8), ("jacobian", 0.4)):
        write_student(root / f"model-{name}", error=error)
        students[name] = {**identical, "b": name, "directory": str(root / f"model-{name}")}
    return [
        {"name": "identical", "kind": "identical", "budget": "", "by": [], "pairs": [identical]},
        {"name": "scale", "kind": "scale", "budget": "", "by": [], "pairs": [wide]},
        {"name": "scale with a ceiling", "kind": "scale", "budget": "", "by": [], "pairs": [judged]},
        *(
            {"name": f"by {name}", "kind": "distilled", "budget": "1", "by": [name], "pairs": [pair]}
            for name, pair in students.items()
        ),
    ]


@pytest.fixture(scope="module")
def collected(relations, tmp_path_factory):
    root = tmp_path_factory.mktemp("collected")
    stage.collect(relations, root / "relations.h5", root / "relations.csv", spec={})
    return root


def value(read, relation, site, measure):
    of = read.measures
    is_row = (of["relation"] == relation) & (of["site"] == site) & (of["measure"] == measure)
    (place,) = np.flatnonzero(is_row)
    return {name: column[place] for name, column in of.items()}


def test_an_identical_pair_is_shared_and_aligned_at_all_depths(collected):
    read = stage.read(collected / "relations.h5")
    for site in SITES:
        for name in ("sharedness", "sharedness_unweighted", "sharedness_energy", "shared_cosine", "alignment", "r2"):
            row = value(read, "identical", site, name)
            assert row["value"] == pytest.approx(1, abs=1e-3), name
            assert row["runs"] == (1 if name == "r2" else 2)
            if name != "alignment":
                assert row["lo"] == pytest.approx(1, abs=1e-3)
        unexplained = [value(read, "identical", site, name) for name in ("fvu_a", "fvu_b")]
        assert unexplained[0]["value"] == pytest.approx(unexplained[1]["value"], rel=1e-3)
        assert unexplained[0]["lo"] < unexplained[0]["value"] < unexplained[0]["hi"]


def test_dead_latents_are_counted_and_in_no_histogram(collected):
    read = stage.read(collected / "relations.h5")
    depths = read.depths
    assert (depths["live"] + depths["dead"] == 192).all()
    np.testing.assert_allclose(read.histograms.sum(1), depths["live"])
    identical = depths["relation"] == "identical"
    r = (measures.R_EDGES[1:] + measures.R_EDGES[:-1]) / 2
    assert np.abs(r[read.histograms[identical].sum(0) > 0] - 0.5).max() <= 0.02


def test_unequal_widths_are_judged_by_a_ceiling_alone(collected):
    depths = stage.read(collected / "relations.h5").depths
    ceilings = dict(zip(zip(depths["relation"], depths["site"], strict=True), depths["ceiling"], strict=True))
    assert np.isnan(ceilings["scale", "first"])
    assert 0 < ceilings["scale with a ceiling", "first"] < 0.999
    shown = section.section(collected / "relations.h5")
    rows = {(row[0], row[1]): row for row in shown.blocks[1].rows}
    assert rows["scale", "first"][5].text == "no verdict"
    assert rows["scale with a ceiling", "first"][5].text != "no verdict"
    assert "scale: the models differ in width" in shown.blocks[-1].text


def test_models_as_a_whole_are_measured_by_document(collected):
    read = stage.read(collected / "relations.h5")
    n = np.arange(12) + 5
    kl = value(read, "scale", "", "kl")
    assert kl["value"] == pytest.approx(np.average(0.5 + 0.01 * np.arange(12), weights=n))
    assert kl["lo"] < kl["value"] < kl["hi"]
    loss = value(read, "scale", "", "loss")
    assert [loss[name] for name in ("value", "lo", "hi")] == pytest.approx([0.25] * 3)
    assert value(read, "by kl", "", "jacobian")["value"] == pytest.approx(0.8)


def test_students_of_one_budget_are_compared_with_those_of_kl(collected):
    differences = stage.read(collected / "relations.h5").differences
    assert set(differences["relation"]) == {"by jacobian"}
    assert set(differences["reference"]) == {"by kl"}
    rows = dict(zip(differences["measure"], differences["value"], strict=True))
    assert rows["jacobian"] == pytest.approx(-0.4)
    words = " ".join(block.text for block in section.section(collected / "relations.h5").sections[0].blocks[:1])
    assert "keep more of A by Jacobian distance (−.400" in words
    assert "they keep less of A by no measure." in words
    assert "They cannot be told apart by " in words
    assert "sharedness (first and last)" in words


def test_the_table_as_text(collected):
    with (collected / "relations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * len(SITES)
    assert rows[0]["relation"] == "identical"
    assert float(rows[0]["sharedness"]) == pytest.approx(1, abs=1e-3)
    assert rows[2]["ceiling"] == ""
    assert rows[0]["kl"] == rows[1]["kl"] != ""


def test_measures_are_drawn_over_several_depths_alone(collected, relations, tmp_path):
    def figures(path):
        return [block.id for block in section.section(path).sections[-1].blocks]

    assert any(not name.startswith("relations-norms") for name in figures(collected / "relations.h5"))
    shallow = [
        {**relation, "pairs": [{**pair, "sites": pair["sites"][:1]} for pair in relation["pairs"]]}
        for relation in relations
    ]
    stage.collect(shallow, tmp_path / "relations.h5", tmp_path / "relations.csv", spec={})
    assert figures(tmp_path / "relations.h5") == ["relations-norms-0"]


def test_the_page_escapes_names(relations, tmp_path):
    named = [{**relation, "name": relation["name"].replace("scale", "<script>scale")} for relation in relations]
    stage.collect(named, tmp_path / "relations.h5", tmp_path / "relations.csv", spec={})
    html = document.render("t", Banner("pass", "", ""), "", [section.section(tmp_path / "relations.h5")])
    assert "<script>scale" not in html
    assert "&lt;script&gt;scale" in html


def test_where_nothing_can_be_told_apart_the_words_say_so():
    row = {"measure": "kl", "site": "", "value": 0.1, "lo": -1.0, "hi": 1.2, "q": 0.8, "repeated": True}
    none = "no difference in what is kept of A is certain and counts, in any of 1 measure."
    assert section.answer("by both", "by KL", [row]).endswith(none)
    tiny = {**row, "value": 0.01, "q": 1e-6}
    assert section.answer("by both", "by KL", [tiny]).endswith(
        f"{none} They differ by less than counts by KL from A (nats)."
    )
    told = {**row, "lo": 0.05, "q": 0.01}
    assert "they keep less of A by KL from A (nats) (+.100, .050 to 1.20)." in section.answer(
        "by both", "by KL", [told]
    )
    once = section.answer("by both", "by KL", [{**told, "repeated": False}])
    assert "(+.100, .050 to 1.20, one run)." in once
