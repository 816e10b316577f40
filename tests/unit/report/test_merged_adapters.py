"""What the page says of models that an adapter made."""

from diptych.page.blocks import Note
from diptych.report import experimental_setup, merged_adapters
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json

RECORD = {
    "adapter": "org/lora at main",
    "kind": "LoRA",
    "rank": 16,
    "notes": ["was trained on org/other, and its parent here is org/base"],
    "stored_dtype": "bfloat16",
    "change": 0.0312,
    "rounding": {"relative": 0.001, "of_change": 0.052, "largest": 0.01, "lost": 0.2},
    "weights": {"a": {}, "b": {}},
}


def test_a_merged_adapter_is_told_with_its_rounding_and_notes(tmp_path):
    spec = {"reads": {"kind": "adapter", "parent": "base"}, "settings": {}}
    with artifacts.create_directory(tmp_path / "tuned", "model", spec) as directory:
        artifacts.write_text(directory / "merge.json", canonical_json(RECORD))
    with artifacts.create_directory(tmp_path / "base", "model", {"settings": {"source": {"kind": "none"}}}):
        pass
    model, base = ({"name": name, "directory": str(tmp_path / name), "dtype": "float32"} for name in ("tuned", "base"))
    table, *notes = experimental_setup._models([base, model])
    assert table.rows[1] == [
        "tuned",
        "base with the LoRA adapter org/lora at main (rank 16) merged in: 2 weights move by 3.1 % of their norm; "
        "storing them as bfloat16 rounds that by 5.2 % and takes back 20 % of the changed entries",
        "float32",
    ]
    assert notes == [
        Note(
            "warn",
            "tuned: the adapter org/lora at main: was trained on org/other, and its parent here is org/base.",
        )
    ]
    assert merged_adapters.notes(base) == []
