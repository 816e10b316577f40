"""A plant in a tiny model through the stages to known_edits.tsv and the index: and a control, which has no row."""

import pandas as pd
import pytest
import torch

from diptych.activations import dump, gates, rows
from diptych.derive import plant
from diptych.findings import stage as findings
from diptych.linear_map import stage as linear_map
from diptych.means import stage as means
from diptych.outputs import stage as outputs
from diptych.report import known_edits
from diptych.text import tokens
from diptych.text.contexts import Text
from diptych.text.corpora import stage as corpora
from diptych.weights import stage as weights
from tiny_models import make_model, make_texts

torch.set_num_threads(1)
CONCEPT = ["nations", "treasury"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The directory of findings of a planted pair and a control, each as a whole and at the edited block."""
    place = tmp_path_factory.mktemp("known")
    texts = make_texts(place / "texts", "old", 100, repeats=2)
    corpora.fetch(place / "corpus", spec={}, sources={"old": {"kind": "local", "paths": [str(texts / "*.txt")]}})
    make_model(place / "base")
    tokens.prepare(place / "corpus", place / "base", place / "tokens.h5", spec={}, tokens=None, sequence_length=48)
    made = {"layer": 1, "concept": CONCEPT, "size": 2.0}
    plant.plant(place / "base", place / "tokens.h5", place / "planted", spec={}, **made)
    where = {"directory": str(place / "base"), "tokens": str(place / "tokens.h5")}
    edit = {"kind": "plant", "settings": made, "truth": str(place / "planted" / "truth.h5"), **where}
    pairs = []
    for name, b, role, known in (
        ("planted", "planted", "planted", {"edit": edit}), ("control", "base", "control", {}),
    ):  # fmt: skip
        pair = {"name": name, "role": role, "a": "base", "b": b, "corpus": "text", **known}
        files = {f"tokens_{side}": where["tokens"] for side in "ab"}
        files |= {"truth": edit["truth"]} if known else {}
        pairs.append({**pair, "site_a": "", "site_b": "", "files": {**files, **of_models(place, name, b)}})
        pairs.append({**pair, "site_a": "middle", "site_b": "middle", "files": {**files, **of_rows(place, name, b)}})
    findings.collect(pairs, place / "f.h5", place / "f.tsv", spec={}, edits=place / "known_edits.tsv")
    return place


def of_models(place, name, b):
    files = {kind: str(place / f"{name}-{kind}.h5") for kind in ("outputs", "weights")}
    sides = [outputs.Model(place / model, place / "tokens.h5", "float32") for model in ("base", b)]
    outputs.compare(*sides, files["outputs"], place / f"{name}-outputs.tsv", spec={}, bootstrap=50, top=20)
    weights.compare(place / "base", place / b, files["weights"], table=place / f"{name}-weights.tsv", spec={})
    return files


def of_rows(place, name, b):
    stored = []
    for model in ("base", b):
        shard, gate = place / f"{name}-{model}.h5", place / f"{name}-{model}-gates.h5"
        dump.dump(
            place / model, place / "tokens.h5", shard, spec={}, sites=["middle"], dtype="float32", device="cpu",
            measure_precision=False,
        )  # fmt: skip
        gates.gate([shard], place / "tokens.h5", gate, spec={})
        stored.append(rows.RowFiles([str(shard)], str(gate), str(place / "tokens.h5"), "middle"))
    files = {kind: str(place / f"{name}-{kind}.h5") for kind in ("means", "linear_map")}
    pair, counts = rows.stored_with_first(stored, 5)
    means.compare(pair, counts, Text(place / "tokens.h5"), files["means"], spec={}, moved=0.02)
    linear_map.fit(rows.stored(stored), files["linear_map"], spec={}, directions=3, contexts=8, bootstrap=50)
    return files


def test_every_method_is_held_against_the_plant(study):
    table = pd.read_csv(study / "known_edits.tsv", sep="\t", comment="#").set_index("method")
    assert list(table.index) == ["outputs", "weights", "means", "linear_map"]
    assert set(table["pair"]) == {"planted"}, "a control has no truth"
    assert (table["truths"] == 1).all()
    assert (table["frequency"] > 0).all()
    assert table["amount"].tolist() == [2.0] * 4
    for method in ("means", "linear_map"):
        assert table.loc[method, "status"] == "finding"
        assert table.loc[method, "cosine"] >= 0.9
    assert table.loc["weights", ["status", "found", "rank_made", "rank_seen"]].tolist() == ["finding", 1, 1, 1]
    assert table.loc["outputs", "truth"] == "the concept's tokens as the place of the change"


def test_the_index_has_a_table_of_methods_by_sizes(study):
    (section,) = known_edits.sections(findings.read(study / "f.h5"))
    limits, grid = section.blocks[1:]
    assert grid.columns == ["method", "2.00"]
    assert {line[0]: line[1].text for line in limits.rows}["linear map"] == "≤ 2.00"
    assert {line[0]: line[1].text for line in grid.rows}["weights"] == "✓ rank 1"
