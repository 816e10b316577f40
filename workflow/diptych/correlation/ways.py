"""Which products of codes are cheaper sparse and which dense, by a measured cost of either.

A sparse product of latents costs by the pairs of codes that stand on a common token, a dense one by tokens, however few
of them fire. The choice falls for a panel of latents of A at a time, from the data alone: neither the memory of a
block, nor the number of threads, nor any clock has a part in it, because both ways round differently.

    is_dense = dense_panels(common=fires_A.T @ l0_B, columns=F_B, tokens=n)     # bool [panels]
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

TILE = 2**22
"""Cells of the codes of B that a dense product makes dense at a time, and at most of a panel: 32 MiB."""
PANEL = 256
"""Latents of A in a panel: enough for a dense product at full speed, few enough to differ in how often they fire."""


@dataclass(frozen=True)
class Cost:
    """Nanoseconds on one thread, float64.

    Only their ratios decide. They are fitted to the times of single panels, read as the stage reads them (2,048 to
    16,384 latents, 1,000 to 6,000 tokens, 2 % to 20 % of latents firing on a token), with scipy 1.17 and OpenBLAS 0.3
    on one core of an AMD EPYC (Zen 3, AVX2); `benchmarks/correlation.py --ways` shows what the choice loses on another
    processor.

    Attributes:
        common: of a sparse product, per pair of codes on a common token.
        entry: of a sparse product, per entry that it has, beyond what a cell of a dense block costs to read.
        cell: of a dense product, per cell and token.
    """

    common: float = 3.4
    entry: float = 17.0
    cell: float = 0.06


MEASURED = Cost()


def panel_rows(columns: int) -> int:
    """Latents of A in a panel, for `columns` latents of B."""
    return min(PANEL, token_rows(columns))


def token_rows(columns: int) -> int:
    """Tokens on which the codes of `columns` latents of B are made dense at a time."""
    return max(1, TILE // max(columns, 1))


def dense_panels(common: IntArray, columns: int, tokens: int) -> BoolArray:
    """Whether the dense product of each panel is cheaper, [panels].

    Args:
        common: pairs of codes on a common token of each latent of A with all of B, [F_A].
        columns: latents of B.
        tokens: rows of the codes.
    """
    starts = np.arange(0, len(common), panel_rows(columns))
    rows = np.diff(np.append(starts, len(common)))
    entries = np.minimum(common, columns)
    sparse = MEASURED.common * np.add.reduceat(common, starts) + MEASURED.entry * np.add.reduceat(entries, starts)
    return np.asarray(sparse > MEASURED.cell * tokens * columns * rows)
