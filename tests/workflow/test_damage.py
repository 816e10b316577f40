"""Single bits flipped in what a finished study stored: each is refused, naming the file, or changes no number."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from diptych.dictionaries import sae
from diptych.models import pretrained
from diptych.runtime.errors import ArtifactError
from diptych.storage import artifacts, manifest
from diptych.text import tokenizer
from diptych.text.corpora.corpus import Corpus

pytestmark = pytest.mark.workflow

FLIPS = 200
RESULTS = Path("results/test")


def contents(path: Path) -> dict[str, object]:
    """Every value of an artifact, each as bytes or text."""
    with artifacts.read(path, None) as file:
        values: dict[str, object] = {f"@{key}": str(value) for key, value in file.attrs.items()}

        def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
            values.update({f"{name}@{key}": str(value) for key, value in item.attrs.items()})
            if isinstance(item, h5py.Dataset):
                value = file[name][()]
                text = h5py.check_string_dtype(item.dtype) is not None
                values[name] = np.asarray(value).tolist() if text else np.asarray(value).tobytes()

        file.visititems(visit)
    return values


def load_model(directory: Path) -> None:
    pretrained.load(directory)
    tokenizer.Tokenizer(directory)


READERS = {"models": load_model, "dictionaries": sae.load, "corpora": Corpus}


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def test_no_flipped_bit_becomes_a_number(done):
    results = done.path / RESULTS
    rng = np.random.default_rng(0)
    directories = [path.parent for kind in READERS for path in sorted((results / kind).glob("*/manifest.json"))]
    targets = [*sorted(results.rglob("*.h5")), *directories]
    refused, harmless, unseen = 0, 0, []
    for number in range(FLIPS):
        target = targets[number % len(targets)]
        files = [path for path in sorted(target.rglob("*")) if path.is_file()] if target.is_dir() else [target]
        path = files[rng.integers(len(files))]
        bit = int(rng.integers(8 * path.stat().st_size))
        before = contents(target) if target.is_file() else manifest.read(target)
        flip(path, bit)
        try:
            if target.is_dir():
                READERS[target.parent.name](target)
            after = contents(target) if target.is_file() else manifest.read(target)
            if after == before and (target.is_file() or path.name == manifest.NAME):
                harmless += 1
            else:
                unseen.append(f"{path}, bit {bit}")
        except ArtifactError as error:
            refused += 1
            if path.name not in str(error) and target.name not in str(error):
                unseen.append(f"{path}, bit {bit}: {error}")
        flip(path, bit)
    assert not unseen
    assert refused > 0.9 * FLIPS, (refused, harmless)
    for target in targets:
        if target.is_file():
            contents(target)
        else:
            READERS[target.parent.name](target)
