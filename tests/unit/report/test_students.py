"""A distilled model on the page."""

import json

from diptych.page.blocks import Figure, Table
from diptych.report import experimental_setup, students
from diptych.storage import artifacts

LOSS = {"kl": 1.0, "temperature": 2.0, "jacobian": 0.5, "probe": "token", "probes": 1, "hidden": 0.0}


def write_student(directory, init="parent"):
    settings = {"init": init, "loss": LOSS, "steps": 60, "batch_sequences": 2}
    reads = {"kind": "distill", "parent": "base", "corpus": "old"}
    before = {"loss": {"<new>": 9.0}, "kl": {"<new>": 3.0}, "jacobian": {"<new>": None}}
    after = {"loss": {"<new>": 5.0}, "kl": {"<new>": 0.25}, "jacobian": {"<new>": 0.75}}
    record = {
        "curve": [3.0, 2.0], "terms": {"kl": [2.5, 1.5], "jacobian": [1.0, 1.0]}, "layers": [0, 2, 3], "before": before,
        "after": after, "shared_documents": 0, "trained_parameters": 9, "epochs": 0.5,
    }  # fmt: skip
    with artifacts.create_directory(directory, "model", {"settings": settings, "reads": reads}) as unfinished:
        artifacts.write_text(unfinished / "training.json", json.dumps(record))
    return {"name": "student", "directory": str(directory), "dtype": "float32"}


def test_a_student_is_described_with_its_distance_to_the_teacher(tmp_path):
    made, distances, losses, figure = experimental_setup._models([write_student(tmp_path / "model")])
    assert isinstance(made, Table)
    assert made.rows[0][1] == (
        "a student of base: 3 blocks from blocks 0, 2 and 3, distilled on old by 1 x KL + 0.5 x the Jacobian loss in "
        "60 steps of 2 sequences; its token embedding is the teacher's, untrained"
    )
    assert isinstance(distances, Table)
    assert [cell if isinstance(cell, str) else cell.text for cell in distances.rows[0]] == [
        "<new>", "3.00", ".250", "–", ".750",
    ]  # fmt: skip
    assert isinstance(losses, Table)
    assert isinstance(figure, Figure)
    assert [line["name"] for line in figure.plot["data"]] == ["kl", "jacobian"]


def test_other_models_have_no_distances(tmp_path):
    assert students.distances({"name": "base", "directory": str(tmp_path)}) == []
    model = write_student(tmp_path / "random", init="random")
    settings = {"init": "random", "parent": "base", "corpus": "old", "loss": LOSS, "steps": 0, "batch_sequences": 1}
    assert "3 blocks from random weights, distilled on old" in students.origin(model, settings)
