"""Which pairs have a difference that the config tells, and what it says of it."""

import yaml

from diptych.config import cells, loading
from diptych.config.jobs import Jobs
from diptych.config.layout import Layout
from trees import ROOT


def layout_of(name):
    return Layout(loading.load(yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8"))))


def test_the_default_study_has_a_plant_and_a_fine_tune():
    compared = cells.comparisons(layout_of("config.yaml"))
    edits = {each["name"]: each.get("edit") for each in compared}
    assert edits["control"] is None
    assert edits["floor"] is None
    assert (edits["planted"]["kind"], edits["planted"]["settings"]["size"]) == ("plant", 2.0)
    assert edits["planted"]["truth"] == "models/planted/truth.h5"
    tuned = {"corpus": "nineteenth", "method": "lora", "lora_rank": 16}
    assert edits["tuned"] == {
        "kind": "finetune", "settings": tuned, "directory": "models/base", "tokens": "tokens/nineteenth/base.h5",
    }  # fmt: skip
    read = {str(path) for path in Jobs(layout_of("config.yaml").study).collect_findings().inputs["files"]}
    assert {"results/models/base/manifest.json", "results/tokens/nineteenth/base.h5"} <= read


def test_the_edits_of_smollm2_are_known_and_its_control_is_not():
    layout = layout_of("studies/leaderboard.yaml")
    edits = {each["name"]: each.get("edit") for each in cells.whole_pairs(layout)}
    kinds = [edit["kind"] if edit else "" for edit in edits.values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"plant": 15, "trigger": 5, "finetune": 1, "": 1}
    assert edits["control"] is None
    assert sorted(edit["settings"]["share"] for edit in edits.values() if edit and edit["kind"] == "trigger") == [
        0.02, 0.05, 0.1, 0.2, 0.5,
    ]  # fmt: skip
