"""Two results directories are equal, or every changed value of every kind of file is named."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import compare_results
from diptych.storage import artifacts


def results(directory, *, value=1.0, text="a", code="1", weight=1.0, cell="x", height=2.0):
    directory.mkdir()
    spec = {"code": code, "packages": {"numpy": code}, "settings": {"k": 3}}
    with artifacts.create(directory / "map.h5", "map", spec) as file:
        file.array("slope", np.array([0.0, value]))
        file.json("verdicts", {"text": text})
    save_file({"W": torch.tensor([weight])}, directory / "model.safetensors")
    (directory / "table.tsv").write_text(f"name\tvalue\nrow\t{cell}\n")
    page = f'<p>{code}</p><script type="application/json" id="figures">{json.dumps({"f": [height]})}</script>'
    (directory / "index.html").write_text(page)
    return directory


def test_code_and_wording_may_differ(tmp_path):
    old, new = results(tmp_path / "old"), results(tmp_path / "new", code="2")
    assert list(compare_results.differences(old, new)) == []


@pytest.mark.parametrize(
    ("change", "file"),
    [
        ({"value": np.nextafter(1.0, 2.0)}, "map.h5"),
        ({"text": "b"}, "map.h5"),
        ({"weight": 1.0000001}, "model.safetensors"),
        ({"cell": "y"}, "table.tsv"),
        ({"height": 2.5}, "index.html"),
    ],
)
def test_one_changed_value_is_named(tmp_path, change, file):
    found = list(compare_results.differences(results(tmp_path / "old"), results(tmp_path / "new", **change)))
    assert len(found) == 1
    assert found[0].startswith(f"{file}: ")


def test_a_missing_file_is_named(tmp_path):
    old, new = results(tmp_path / "old"), results(tmp_path / "new")
    (new / "table.tsv").unlink()
    assert list(compare_results.differences(old, new)) == [f"table.tsv: only in {old}"]
    assert list(compare_results.differences(old, new, ("*.tsv",))) == []
