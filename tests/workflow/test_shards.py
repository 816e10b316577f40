"""Shards change the files, not the rows."""

import numpy as np
import pytest

from diptych.activations.rows import RowFiles, Rows, stored
from trees import Tree

pytestmark = pytest.mark.workflow
DIRECTORY = "results/test/activations/both/other/main"


def rows_of(tree: Tree, shards: int) -> Rows:
    directory = tree.path / DIRECTORY
    files = [str(directory / f"{shard}.h5") for shard in range(shards)]
    tokens = tree.path / "results/test/tokens/both/other.h5"
    return stored([RowFiles(files, str(directory / "gates.h5"), str(tokens), "last")])


def test_two_shards_hold_the_rows_of_one(done):
    whole = rows_of(done, 1)
    index = np.arange(len(whole))
    values = whole.take(index).x[0].copy()
    config = done.config()
    config["activations"] = {"shards": 2}
    done.write_config(config)
    done.snakemake(f"{DIRECTORY}/gates.h5")
    parts = rows_of(done, 2)
    np.testing.assert_array_equal(parts.token_row, whole.token_row)
    # Sequences meet others in their batches, which rounds differently in float32 before bfloat16 is stored.
    np.testing.assert_allclose(parts.take(index).x[0], values, rtol=2**-7, atol=1e-2)
    first = rows_of(done, 1)
    assert 0 < len(first) < len(whole)
