"""Gates: each cause is found where it was planted, and the numbers of clean rows are the known ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.activations import gates
from diptych.activations.sides import MemorySide
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import templates

N, D, LENGTH = 600, 12, 30


def write_tokens(path: Path, *, prefix: int = 0, named: int | None = None, folds: bool = True) -> Path:
    position = np.tile(np.arange(LENGTH, dtype=np.int32), N // LENGTH)
    span = np.stack([position, position + 1], axis=1).astype(np.int32)
    span[position == 0] = -1
    role = np.zeros(N, dtype=np.int8)
    if named is not None:
        role[named] = len(templates.ROLES)
    with artifacts.create(path, "tokens", {}) as file:
        file.array("token", np.arange(N, dtype=np.int32) % 50)
        file.array("position", position)
        file.array("char_span", span)
        file.array("counts", position >= max(2, prefix))
        file.array("role", role)
        file.array("sequence", np.arange(N, dtype=np.int32) // LENGTH)
        file.array("sequences/document", np.arange(N // LENGTH, dtype=np.int32))
        file.array("documents/fold", np.arange(N // LENGTH, dtype=np.int32) % 5 if folds else np.ones(N // LENGTH, int))
        file.json("common_prefix", prefix)
    return path


def write_rows(path: Path, values: np.ndarray, first_row: int = 0, halved: bool = False) -> Path:
    with artifacts.create(path, "activations", {}) as file:
        stored = file.rows("sites/middle/values", values.shape, np.float32)
        stored.attrs["dtype"] = "float32"
        stored[:] = values
        file.array("sites/middle/norm", np.linalg.norm(values, axis=1).astype(np.float32))
        file.json("first_row", first_row)
        file.json("hooks", {"middle": "blocks.1.hook_resid_post"})
        file.json("compute_dtype", "bfloat16")
        file.json("storage_error", {"middle": {"mean": 0.001, "max": 0.001 * (1 + first_row)}})
        file.json("compute_error", {"middle": {"median": 0.01, "max": 0.1}} if first_row == 0 else {})
        file.json("compute_unmeasured", None)
        file.json("batch", {"tokens": 64, "halved": int(first_row > 0 and halved)})
    return path


def clean() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


def run(tmp_path: Path, values: np.ndarray, **tokens: Any) -> tuple[np.ndarray, dict[str, Any]]:
    shards = [
        write_rows(tmp_path / "0.h5", values[:250]),
        write_rows(tmp_path / "1.h5", values[250:], first_row=250),
    ]
    gates.gate(shards, write_tokens(tmp_path / "tokens.h5", **tokens), tmp_path / "gates.h5", spec={})
    with artifacts.read(tmp_path / "gates.h5", "gates") as file:
        cause = file["sites/middle/cause"][:]
        assert ((cause == 0) == file["sites/middle/valid"][:]).all()
        assert artifacts.read_json(file, "causes") == list(gates.CAUSES)
        return cause, artifacts.read_json(file, "gates")["middle"]


def test_clean_rows(tmp_path: Path) -> None:
    cause, numbers = run(tmp_path, clean())
    position = np.tile(np.arange(LENGTH), N // LENGTH)
    assert (cause == np.where(position == 0, 1, np.where(position == 1, 3, 0))).all()
    assert numbers["valid_rows"] == N - 2 * N // LENGTH
    assert numbers["rows_per_width"] == pytest.approx(560 / D)
    assert numbers["invalid_share"] == pytest.approx(
        {"inserted": 1 / 30, "common_prefix": 0, "skip_first": 1 / 30, "outlier_norm": 0}
    )
    assert (numbers["numerical_rank"], numbers["constant_columns"], numbers["duplicate_share"]) == (D, 0, 0)
    assert numbers["effective_rank"] == pytest.approx(D, rel=0.05)
    assert numbers["distinct_tokens"] == 50 - len(
        {p for p in range(50) if all((p + 50 * k) % 30 < 2 for k in range(12))}
    )
    assert numbers["warnings"] == []
    assert numbers["hook"] == "blocks.1.hook_resid_post"
    assert numbers["storage_error"] == pytest.approx({"mean": 0.001, "max": 0.251})
    assert (numbers["compute_error"], numbers["compute_unmeasured"]) == ({"median": 0.01, "max": 0.1}, None)
    assert (numbers["compute_dtype"], numbers["stored_dtype"]) == ("bfloat16", "float32")


def test_massive_rows_do_not_count_and_show_by_position(tmp_path: Path) -> None:
    values = clean()
    position = np.tile(np.arange(LENGTH), N // LENGTH)
    values[position == 1] *= 500
    values[[7, 333]] *= 30
    cause, numbers = run(tmp_path, values)
    assert set(np.flatnonzero(cause == 4)) == {7, 333}
    assert numbers["norm_by_position"][1] > 100 * numbers["median_norm"]
    assert numbers["norm_by_position"][5] < 2 * numbers["median_norm"]
    assert numbers["max_norm_by_position"][7] > 10 * numbers["norm_by_position"][7]
    assert len(numbers["norm_by_position"]) == LENGTH


def test_template_positions_are_spared_and_counted(tmp_path: Path) -> None:
    values = clean()
    values[7] *= 30
    cause, numbers = run(tmp_path, values, named=7)
    assert cause[7] == 0
    assert numbers["template_outliers"] == 1


def test_common_prefix_is_its_own_cause(tmp_path: Path) -> None:
    cause, _ = run(tmp_path, clean(), prefix=4)
    assert cause[:6].tolist() == [1, 2, 2, 2, 0, 0]


def test_degenerate_rows_are_counted_and_warned_of(tmp_path: Path) -> None:
    values = clean()
    values[:, 3] = 1.0
    values[:, 5] = values[:, 4] * 2
    values[100:160] = values[99]
    _, numbers = run(tmp_path, values)
    assert numbers["constant_columns"] == 1
    assert numbers["numerical_rank"] == D - 2
    assert numbers["duplicate_share"] == pytest.approx(56 / 560, abs=1e-9)
    assert len(numbers["warnings"]) == 3


def test_missing_shards_and_empty_selections_are_errors(tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "tokens.h5")
    shard = write_rows(tmp_path / "0.h5", clean()[:250])
    with pytest.raises(DiptychError, match="350 token rows are in no shard"):
        gates.gate([shard], tokens, tmp_path / "gates.h5", spec={})
    none = write_tokens(tmp_path / "none.h5", prefix=LENGTH)
    with pytest.raises(DiptychError, match="no token counts"):
        gates.gate([write_rows(tmp_path / "1.h5", clean())], none, tmp_path / "gates.h5", spec={})
    assert not (tmp_path / "gates.h5").exists()


def test_rows_that_can_say_nothing_are_errors(tmp_path: Path) -> None:
    shard = write_rows(tmp_path / "0.h5", clean())
    no_test = write_tokens(tmp_path / "tokens.h5", folds=False)
    with pytest.raises(DiptychError, match="0 rows count in the test fold and 560 outside it"):
        gates.gate([shard], no_test, tmp_path / "gates.h5", spec={})
    equal = write_rows(tmp_path / "equal.h5", np.ones((N, D), dtype=np.float32))
    with pytest.raises(DiptychError, match="all 560 rows are equal"):
        gates.gate([equal], write_tokens(tmp_path / "good.h5"), tmp_path / "gates.h5", spec={})
    assert not (tmp_path / "gates.h5").exists()


def test_a_lack_of_memory_is_a_warning(tmp_path: Path) -> None:
    shards = [write_rows(tmp_path / "0.h5", clean()[:250]), write_rows(tmp_path / "1.h5", clean()[250:], 250, True)]
    gates.gate(shards, write_tokens(tmp_path / "tokens.h5"), tmp_path / "gates.h5", spec={})
    with artifacts.read(tmp_path / "gates.h5", "gates") as file:
        said = artifacts.read_json(file, "gates")["middle"]["warnings"]
    assert said == ["memory ran out 1 times and the batch was halved"]


def test_rank_does_not_depend_on_the_mean() -> None:
    values = clean()
    values[:, 2] = 0
    side = MemorySide(values + np.float32(100))
    assert gates.numerical_rank(side, np.arange(N))[0] == D - 1


def test_rows_that_are_not_stored_do_not_count(tmp_path: Path) -> None:
    values, position = clean(), np.tile(np.arange(LENGTH), N // LENGTH)
    first = np.flatnonzero(position < 4)
    shards = []
    for number, part in enumerate(np.array_split(first, 2)):
        shards.append(write_rows(tmp_path / f"{number}.h5", values[part], int(part[0])))
        with artifacts.read(shards[-1], "activations") as file:
            attributes = dict(file.attrs)
        with artifacts.create(shards[-1], "activations", {}) as out:
            out.array("sites/middle/values", values[part], dtype="float32")
            out.array("sites/middle/norm", np.linalg.norm(values[part], axis=1).astype(np.float32))
            out.array("token_row", part)
            out.json("first", 4)
            for name in ("first_row", "hooks", "compute_dtype", "storage_error", "compute_error", "compute_unmeasured"):
                out._file.attrs[name] = attributes[name]
            out.json("batch", {"tokens": 64, "halved": 0})
    gates.gate(shards, write_tokens(tmp_path / "tokens.h5"), tmp_path / "gates.h5", spec={})
    with artifacts.read(tmp_path / "gates.h5", "gates") as file:
        cause, statistics = file["sites/middle/cause"][:], artifacts.read_json(file, "gates")["middle"]
    np.testing.assert_array_equal(cause == gates.CAUSES.index("not_stored"), position >= 4)
    assert (cause[(position >= 2) & (position < 4)] == 0).mean() > 0.95
    assert statistics["rows"] == len(first)
    assert statistics["invalid_share"]["inserted"] == 0.25
    assert len(statistics["norm_by_position"]) == 4
    with pytest.raises(DiptychError, match="token rows are in no shard"):
        gates.gate(shards[:1], tmp_path / "tokens.h5", tmp_path / "gates.h5", spec={})
