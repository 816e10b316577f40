"""Mean differences of two models' activations at named places, and how they hold on documents that were not fitted.

At each place, delta is the mean over documents of x_B - x_A and u = delta / ||delta||, fitted outside fold 0. On fold 0
each document gives its mean of (x_B - x_A) . u. If the models do not differ there, a document's sign is as likely +
as -, which random signs test exactly (METHODS 11). Sizes are in units of A's typical distance from its mean:

    effect = ||delta|| / median over the place's rows of ||x_A - mean||

with the mean over all rows that count. At a massive activation that distance is of its own size, so that the rounding
of a stored number is small beside it whatever the number.

    differences = compare(pair, counts, places, moved=0.01, random=20, seed=0)
    differences.direction       # u, [P, d]
    differences.held_out        # documents' means on fold 0, [P, D]
"""

from dataclasses import dataclass

import numpy as np

from diptych.activations.rows import Block, Rows
from diptych.means.places import MOVED, BoolArray, DocumentMeans, DoubleArray, FloatArray, Places, moved_most
from diptych.runtime import logs

BLOCK_ROWS = 4096
TEST_FOLD = 0


@dataclass(frozen=True)
class RowStatistics:
    """Of every row float32 [n]: norm in A, in B, and ||x_B - x_A|| (NaN for unequal widths)."""

    norm_A: FloatArray
    norm_B: FloatArray
    distance: FloatArray


@dataclass(frozen=True)
class Differences:
    """Mean differences at P places where they are not zero.

    Attributes:
        places: the places.
        direction: float64 [P, d], u.
        length: float64 [P], ||delta||.
        scale: float64 [P], the typical distance of A's fitted rows there from A's mean.
        held_out: float64 [P, D], mean of (x_B - x_A) . u of each document of fold 0; NaN for one without such a row.
        projection: float32 [P, n], (x_B - x_A) . u of every row.
        random: float64 [R, d], unit directions drawn from the covariance of A's fitted rows that count.
        rows: statistics of every row.
    """

    places: Places
    direction: DoubleArray
    length: DoubleArray
    scale: DoubleArray
    held_out: DoubleArray
    projection: FloatArray
    random: DoubleArray
    rows: RowStatistics


def norms(pair: Rows) -> RowStatistics:
    """Norms and, for equal widths, distances of every row."""
    n, equal = len(pair), len(set(pair.widths)) == 1
    values = np.full((3, n), np.nan, dtype=np.float32)
    for block in pair.blocks(BLOCK_ROWS):
        values[:, block.row] = _norms(*block.x, equal=equal)
    return RowStatistics(*values)


def compare(pair: Rows, counts: BoolArray, places: Places, *, moved: float, random: int, seed: int) -> Differences:
    """Mean differences at the places, and at the rows that moved most; places without any difference are left out.

    Args:
        pair: rows of A and B, of equal widths.
        counts: bool [n], the rows that count.
        places: where.
        moved: share of the rows that count that moved most.
        random: number of random directions.
        seed: of these.
    """
    fitted = pair.fold != TEST_FOLD
    first = _Sums(pair, counts & fitted, DocumentMeans(places.member & fitted, pair.document), random, seed)
    for block in logs.progress(pair.blocks(BLOCK_ROWS), "differences", total=-(-len(pair) // BLOCK_ROWS), unit="block"):
        first.add(block)
    strongest = moved_most(first.rows.distance, counts, fitted, moved)
    second = _Sums(pair, counts & fitted, DocumentMeans((strongest & fitted)[None], pair.document), 0, seed)
    for block in pair.blocks(BLOCK_ROWS, select=strongest & fitted):
        second.add(block)
    places = places.added(MOVED, strongest)
    delta = np.concatenate([first.delta(), second.delta()])
    length = np.linalg.norm(delta, axis=1)
    differ = length > 0
    direction = delta[differ] / length[differ, None]
    return _tested(pair, fitted, places.only(differ), direction, length[differ], first)


class _Sums:
    """Sums over rows: of documents' mean differences, of A's rows, and of A's rows with random weights."""

    def __init__(self, pair: Rows, counted: BoolArray, means: DocumentMeans, random: int, seed: int) -> None:
        n, d = len(pair), pair.widths[0]
        self._counted, self._means = counted, means
        self._generator = np.random.default_rng(seed)
        self._delta = np.zeros((len(means.member), d))
        self._total, self._weight, self._random = np.zeros(d), np.zeros(random), np.zeros((random, d))
        self.rows = RowStatistics(*np.full((3, n), np.nan, dtype=np.float32))

    def add(self, block: Block) -> None:
        """Add a block of rows."""
        (x_A, x_B), row = block
        difference = x_B - x_A
        for values, of_block in zip(vars(self.rows).values(), _norms(x_A, x_B, equal=True), strict=True):
            values[row] = of_block
        self._delta += self._means.weights(row).T @ difference
        known = x_A[self._counted[row]]
        self._total += known.sum(axis=0, dtype=np.float64)
        weight = self._generator.standard_normal((len(self._random), len(known)), dtype=np.float32)
        self._weight += weight.sum(axis=1)
        self._random += weight @ known

    def delta(self) -> DoubleArray:
        """Mean over documents, float64 [P, d]."""
        n_documents = (self._means.rows_of_document > 0).sum(axis=1)
        delta: DoubleArray = self._delta / np.maximum(n_documents, 1)[:, None]
        return delta

    def mean(self) -> DoubleArray:
        """Mean of A's rows that count."""
        return self._total / max(1, int(self._counted.sum()))

    def random(self) -> DoubleArray:
        """Unit directions of Gaussian draws from the covariance of A's rows that count."""
        drawn = self._random - self._weight[:, None] * self.mean()
        unit: DoubleArray = drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-300)
        return unit


def _tested(
    pair: Rows, fitted: BoolArray, places: Places, direction: DoubleArray, length: DoubleArray, sums: _Sums
) -> Differences:
    """The projections of all rows on the directions, and the documents' means of them on fold 0."""
    n, mean = len(pair), sums.mean().astype(np.float32)
    projection, spread = np.zeros((len(direction), n), dtype=np.float32), np.zeros(n, dtype=np.float32)
    for block in pair.blocks(BLOCK_ROWS):
        x_A, x_B = block.x
        projection[:, block.row] = ((x_B - x_A) @ direction.T.astype(np.float32)).T
        spread[block.row] = np.linalg.norm(x_A - mean, axis=1)
    is_test = np.isin(np.unique(pair.document), pair.document[~fitted])
    held_out = DocumentMeans(places.member & ~fitted, pair.document).of_documents(projection)[:, is_test]
    scale = np.array([np.median(spread[at & fitted]) for at in places.member])
    return Differences(places, direction, length, scale, held_out, projection, sums.random(), sums.rows)


def _norms(x_A: FloatArray, x_B: FloatArray, *, equal: bool) -> FloatArray:
    """Norms of A's and B's rows, and their distances, float32 [3, b]."""
    distance = np.linalg.norm(x_B - x_A, axis=1) if equal else np.full(len(x_A), np.nan, dtype=np.float32)
    return np.stack([np.linalg.norm(x_A, axis=1), np.linalg.norm(x_B, axis=1), distance])
