"""Synthetic pairs of activation sets with known differences, on which all methods are tested.

F true features fire sparsely over documents. Their directions are in a common space R^d0, which is mapped into each
model's space by that model's semi-orthogonal map, with a mean and noise. Some features are planted to differ:

    pair = make_pair(labels={"only_B": 2, "rotated": (3, 0.6), "rescaled": (2, 2.0), "more_frequent": (2, 3.0)})
    pair.x_A, pair.x_B                     # float32 [n, d_A], [n, d_B]; row i is the same token in both
    pair.truths("B")                       # unit directions [2, d_B] that only B has
    average_precision(ranking, sides, pair)  # how well a ranking of directions recovers them

`identical_pair` and `noise_pair` have no difference at all: methods must report nothing on them (METHODS 8).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from diptych.activations import rows
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Amount = float | tuple[float, float]
Label = int | tuple[int, Amount]
SideName = Literal["A", "B"]
ClaimedSide = Literal["A", "B", "either"]
"""The model that alone has a direction; "either" by a method that does not tell which."""
Outcome = Literal["hit", "repeat", "false"]

LABELS = ("shared", "only_A", "only_B", "rotated", "rescaled", "more_frequent")
CLAIM_COSINE = 0.7
"""|cos| from which a direction is a hit for a planted one (METHODS 8)."""
TOPIC_CORRELATION = 0.15
"""Share of the firing score that all tokens of a document share, so that documents, not tokens, are independent."""
CLUSTER_CORRELATION = 0.4
"""Share of the firing score, and of a direction's squared length, that the features of one cluster share."""


@dataclass(frozen=True)
class PlantedPair:
    """Aligned rows of two models with their true features and differences.

    Attributes:
        x_A, x_B: float32 [n, d_A], [n, d_B].
        document: int64 [n].
        codes_A, codes_B: float32 [n, F], the true sparse codes; all 0 for a feature the model lacks.
        directions_A, directions_B: float64 [F, d_A], [F, d_B], unit rows, also for features the model lacks (where
            they would have been).
        label: label of each feature, one of `LABELS`.
        amount: float64 [F]: theta in radians, the factor s or the factor c; NaN where none was given.
    """

    x_A: FloatArray
    x_B: FloatArray
    document: IntArray
    codes_A: FloatArray
    codes_B: FloatArray
    directions_A: DoubleArray
    directions_B: DoubleArray
    label: tuple[str, ...]
    amount: DoubleArray

    def rows(self, n_folds: int = 5) -> rows.Rows:
        """The pair as aligned in-memory rows; document i is in fold i mod `n_folds`."""
        return rows.in_memory([self.x_A, self.x_B], self.document, fold=self.document % n_folds)

    def features(self, label: str) -> IntArray:
        """Indices of the features with `label`."""
        return np.flatnonzero([name == label for name in self.label])

    def truths(self, side: SideName) -> DoubleArray:
        """Unit directions [K, d] of the features that only `side` has, in its own space."""
        directions = self.directions_A if side == "A" else self.directions_B
        return directions[self.features(f"only_{side}")]


def make_pair(
    seed: int = 0,
    *,
    n_documents: int = 100,
    tokens_per_document: int = 40,
    d_A: int = 32,
    d_B: int = 32,
    d_0: int | None = None,
    n_features: int = 48,
    labels: Mapping[str, Label] | None = None,
    noise: float = 0.05,
    clusters: int = 0,
    rank: int | None = None,
    same_map: bool = False,
    rate: float = 0.25,
    zipf: float = 0.5,
) -> PlantedPair:
    """Sample a pair with planted differences.

    Args:
        seed: of all random draws.
        n_documents: number of documents.
        tokens_per_document: rows of each.
        d_A: width of A.
        d_B: width of B.
        d_0: width of the common space, <= min(d_A, d_B), the default.
        n_features: F.
        labels: how many features differ and how: {"only_A": 3, "only_B": (3, s), "rotated": (3, theta),
            "rescaled": (3, s), "more_frequent": (3, c)}; theta, c and the factor s of the activations act on B (of
            "only_A" on A) and may be a range (lowest, highest).
        noise: independent Gaussian noise of each model, its variance over the signal's being noise^2.
        clusters: number of groups of features with similar directions that fire together; 0 for none.
        rank: of the matrix of the features' directions, <= d_0, the default; the rest of the space holds noise alone.
        same_map: both models use the same map and mean (needs d_A = d_B).
        rate: firing probability of the most frequent feature.
        zipf: the j-th most frequent feature fires with probability rate j^-zipf.

    Raises:
        DiptychError: the widths, labels or counts do not fit together.
    """
    d_0 = min(d_A, d_B) if d_0 is None else d_0
    rank = d_0 if rank is None else rank
    if rank > d_0:
        raise DiptychError(f"planted pair: rank = {rank} is more than the {d_0} dimensions that both models share")
    if d_0 > min(d_A, d_B) or (same_map and d_A != d_B):
        raise DiptychError(f"planted pair: d_0 = {d_0}, d_A = {d_A}, d_B = {d_B}, same_map = {same_map} do not fit")
    rng = np.random.default_rng(seed)
    label, amount = _assign_labels(labels or {}, n_features, rng)
    cluster = rng.integers(clusters, size=n_features) if clusters else None
    common_A = _feature_directions(n_features, rank, cluster, rng)
    if rank < d_0:
        common_A = common_A @ _semi_orthogonal(rank, d_0, rng)
    common_B = _rotate(common_A, label, amount, rng)
    document = np.repeat(np.arange(n_documents), tokens_per_document)
    rates: DoubleArray = rate * np.arange(1.0, n_features + 1) ** -zipf
    codes_A, codes_B = _codes(document, rates, label, amount, cluster, rng)
    map_A, mean_A = _semi_orthogonal(d_0, d_A, rng), rng.normal(size=d_A)
    map_B, mean_B = (map_A, mean_A) if same_map else (_semi_orthogonal(d_0, d_B, rng), rng.normal(size=d_B))
    return PlantedPair(
        x_A=_activations(codes_A @ common_A @ map_A, mean_A, noise, rng),
        x_B=_activations(codes_B @ common_B @ map_B, mean_B, noise, rng),
        document=document,
        codes_A=codes_A.astype(np.float32),
        codes_B=codes_B.astype(np.float32),
        directions_A=common_A @ map_A,
        directions_B=common_B @ map_B,
        label=label,
        amount=amount,
    )


def identical_pair(seed: int = 0, **settings: Any) -> PlantedPair:
    """A model paired with itself: `x_B` is `x_A`, to the bit. Settings are those of `make_pair`."""
    pair = make_pair(seed, **settings)
    label, amount = ("shared",) * len(pair.label), np.full(len(pair.label), np.nan)
    return replace(pair, x_B=pair.x_A, codes_B=pair.codes_A, directions_B=pair.directions_A, label=label, amount=amount)


def noise_pair(seed: int = 0, **settings: Any) -> PlantedPair:
    """All features shared, each model with its own map and noise: anything found is a false discovery."""
    return make_pair(seed, labels={}, same_map=False, **settings)


def rounded_pair(seed: int = 0, **settings: Any) -> PlantedPair:
    """A model paired with itself in bfloat16: the difference due to a change of dtype alone."""
    pair = identical_pair(seed, **settings)
    return replace(pair, x_B=artifacts.from_bfloat16(artifacts.to_bfloat16(pair.x_A)))


def half_rounded_pair(seed: int = 0, **settings: Any) -> PlantedPair:
    """A model with itself where each copy is in bfloat16 on one half of the documents: only rounding differs.

    Neither copy has more of it than the other, so the two are exchangeable within a document.
    """
    pair = identical_pair(seed, **settings)
    rounded = artifacts.from_bfloat16(artifacts.to_bfloat16(pair.x_A))
    in_A = (np.random.default_rng(seed).permutation(int(pair.document.max()) + 1) % 2 == 0)[pair.document, None]
    return replace(pair, x_A=np.where(in_A, rounded, pair.x_A), x_B=np.where(in_A, pair.x_A, rounded))


def swap_labels(pair: PlantedPair, seed: int = 0) -> PlantedPair:
    """Exchange (x_A, x_B) of each document with probability 1/2 (equal widths): a sample of the label-swap null.

    No feature is in one side alone any more, so every label becomes "shared".
    """
    swapped = (np.random.default_rng(seed).random(int(pair.document.max()) + 1) < 0.5)[pair.document, None]
    return replace(
        pair,
        x_A=np.where(swapped, pair.x_B, pair.x_A),
        x_B=np.where(swapped, pair.x_A, pair.x_B),
        codes_A=np.where(swapped, pair.codes_B, pair.codes_A),
        codes_B=np.where(swapped, pair.codes_A, pair.codes_B),
        label=("shared",) * len(pair.label),
        amount=np.full(len(pair.label), np.nan),
    )


def outcomes(
    directions: Sequence[npt.ArrayLike],
    sides: Sequence[ClaimedSide],
    pair: PlantedPair,
    *,
    of: Sequence[SideName] = ("A", "B"),
    threshold: float = CLAIM_COSINE,
) -> list[Outcome]:
    """Outcome of each direction of a ranking against the planted ones (METHODS 8).

    Going down the ranking, a direction with |cos| >= threshold to truths of its side that have no hit yet is a hit for
    the nearest of them; one that is similar only to truths with a hit is a repeat; every other one is false.

    Args:
        directions: best first, of width d_A or d_B by its side; for latents the decoder row of that side.
        sides: the model that each direction is claimed to be exclusive to; those not in `of` are left out.
        pair: the truth.
        of: sides whose truths are counted.
        threshold: |cos| of a hit.
    """
    truths = {side: pair.truths(side) for side in of}
    open_truths = {side: np.ones(len(truths[side]), dtype=bool) for side in of}
    found: list[Outcome] = []
    for direction, claimed in zip(directions, sides, strict=True):
        sides_of = of if claimed == "either" else tuple(side for side in of if side == claimed)
        if not sides_of:
            continue
        cosines = {side: _cosines(direction, truths[side]) for side in sides_of}
        unclaimed = {side: np.where(open_truths[side], values, -1.0) for side, values in cosines.items()}
        best = max(sides_of, key=lambda side: float(unclaimed[side].max(initial=-1.0)))
        if unclaimed[best].max(initial=-1.0) >= threshold:
            open_truths[best][int(np.argmax(unclaimed[best]))] = False
            found.append("hit")
        else:
            near = any((values >= threshold).any() for values in cosines.values())
            found.append("repeat" if near else "false")
    return found


def average_precision(
    directions: Sequence[npt.ArrayLike],
    sides: Sequence[ClaimedSide],
    pair: PlantedPair,
    *,
    of: Sequence[SideName] = ("A", "B"),
    threshold: float = CLAIM_COSINE,
) -> float:
    """Average precision, without interpolation, of a ranking of directions against the planted ones (METHODS 8).

    Arguments as for `outcomes`; repeats are skipped.

    Returns:
        In [0, 1]; NaN if nothing is planted on the sides of `of`.
    """
    found = [
        outcome for outcome in outcomes(directions, sides, pair, of=of, threshold=threshold) if outcome != "repeat"
    ]
    precision = [found[: i + 1].count("hit") / (i + 1) for i, outcome in enumerate(found) if outcome == "hit"]
    planted = sum(len(pair.truths(side)) for side in of)
    return sum(precision) / planted if planted else float("nan")


def recall_at(found: Sequence[Outcome], planted: int, false_discoveries: float = 0.05) -> float:
    """Largest share of the planted directions in a prefix of the ranking of which so few are false (METHODS 8).

    `planted` is the number of truths, >= 1; the share of false items is among a prefix's hits and false items.
    """
    hits = np.cumsum([outcome == "hit" for outcome in found])
    false = np.cumsum([outcome == "false" for outcome in found])
    accepted = false <= false_discoveries * (hits + false)
    return float(hits[accepted].max(initial=0)) / planted


def subspace_recall(directions: npt.ArrayLike, truths: npt.ArrayLike) -> dict[int, float]:
    """||P_r v||^2 averaged over the K truths v, for r = 1, K, 2K, 4K (METHODS 8); chance level is r/d.

    Args:
        directions: [m, d], one side's ranking, best first; P_r projects on the span of the first r.
        truths: [K, d], unit rows, K >= 1.

    Returns:
        {r: recall}; an r above m or d uses all directions.
    """
    ranking, planted = np.asarray(directions, dtype=np.float64), np.asarray(truths, dtype=np.float64)
    recall = {}
    for r in sorted({1, len(planted), 2 * len(planted), 4 * len(planted)}):
        left, size, _ = np.linalg.svd(ranking[:r].T, full_matrices=False)
        basis = left[:, size > 1e-10 * max(float(size.max(initial=0.0)), 1e-300)]
        recall[r] = float(np.mean(np.sum((planted @ basis) ** 2, axis=1)))
    return recall


def amount_correlation(pair: PlantedPair, label: str, estimate: npt.ArrayLike) -> tuple[float, float]:
    """Spearman correlation of estimated amounts with the planted ones over `label`'s features, and the coverage.

    Args:
        pair: the truth, planted with a range of amounts.
        label: "rotated", "rescaled" or "more_frequent" (or an exclusive one with amounts).
        estimate: [F], NaN where the method found no match for a feature.

    Returns:
        (correlation, share of `label`'s features with an estimate); correlation NaN below 3 estimates.
    """
    features = pair.features(label)
    values = np.asarray(estimate, dtype=np.float64)[features]
    known = np.isfinite(values)
    coverage = float(known.mean()) if len(features) else float("nan")
    if known.sum() < 3:
        return float("nan"), coverage
    return float(stats.spearmanr(values[known], pair.amount[features][known]).statistic), coverage


def _assign_labels(
    labels: Mapping[str, Label], n_features: int, rng: np.random.Generator
) -> tuple[tuple[str, ...], DoubleArray]:
    names, amount = np.full(n_features, "shared", dtype=object), np.full(n_features, np.nan)
    unknown = set(labels) - set(LABELS)
    counts = {name: value if isinstance(value, int) else value[0] for name, value in labels.items()}
    if unknown or sum(counts.values()) > n_features:
        raise DiptychError(f"planted labels {dict(labels)}: use {LABELS} and at most {n_features} features in all")
    free = rng.permutation(n_features)
    for name in sorted(labels):
        assigned, free = free[: counts[name]], free[counts[name] :]
        names[assigned] = name
        value = labels[name]
        if not isinstance(value, int):
            lowest, highest = value[1] if isinstance(value[1], tuple) else (value[1], value[1])
            amount[assigned] = np.linspace(lowest, highest, len(assigned))
    return tuple(names), amount


def _feature_directions(n_features: int, d_0: int, cluster: IntArray | None, rng: np.random.Generator) -> DoubleArray:
    directions = _unit_rows(rng.normal(size=(n_features, d_0)))
    if cluster is not None:
        centre = _unit_rows(rng.normal(size=(int(cluster.max()) + 1, d_0)))[cluster]
        directions = np.sqrt(1 - CLUSTER_CORRELATION) * directions + np.sqrt(CLUSTER_CORRELATION) * centre
    return _unit_rows(directions)


def _rotate(
    directions: DoubleArray, label: tuple[str, ...], amount: DoubleArray, rng: np.random.Generator
) -> DoubleArray:
    """cos(theta) a + sin(theta) w for the rotated features, w a unit vector orthogonal to a."""
    rotated = directions.copy()
    for j in np.flatnonzero([name == "rotated" for name in label]):
        w = rng.normal(size=directions.shape[1])
        w -= (w @ directions[j]) * directions[j]
        rotated[j] = np.cos(amount[j]) * directions[j] + np.sin(amount[j]) * w / np.linalg.norm(w)
    return rotated


def _codes(
    document: IntArray,
    rates: DoubleArray,
    label: tuple[str, ...],
    amount: DoubleArray,
    cluster: IntArray | None,
    rng: np.random.Generator,
) -> tuple[DoubleArray, DoubleArray]:
    """Codes of A and B [n, F].

    A feature fires where a Gaussian score, shared in part by the tokens of a document and the features of a cluster,
    exceeds the level that its rate sets; its size is log-normal.
    """
    n, n_features = len(document), len(rates)
    names = np.array(label)
    independent = 1 - TOPIC_CORRELATION - (0.0 if cluster is None else CLUSTER_CORRELATION)
    score = np.sqrt(independent) * rng.normal(size=(n, n_features))
    score += np.sqrt(TOPIC_CORRELATION) * rng.normal(size=(int(document.max()) + 1, n_features))[document]
    if cluster is not None:
        score += np.sqrt(CLUSTER_CORRELATION) * rng.normal(size=(n, int(cluster.max()) + 1))[:, cluster]
    size = rng.lognormal(0.0, 0.4, size=(n, n_features))
    rates_B = np.minimum(rates * np.where(names == "more_frequent", amount, 1.0), 0.95)
    codes_A = np.where(score > stats.norm.isf(rates), size, 0.0) * (names != "only_B")
    codes_B = np.where(score > stats.norm.isf(rates_B), size, 0.0) * (names != "only_A")
    factor = np.where(np.isnan(amount), 1.0, amount)
    factor_B = np.where(np.isin(names, ("rescaled", "only_B")), factor, 1.0)
    return codes_A * np.where(names == "only_A", factor, 1.0), codes_B * factor_B


def _activations(signal: DoubleArray, mean: DoubleArray, noise: float, rng: np.random.Generator) -> FloatArray:
    scale = noise * np.sqrt(np.mean((signal - signal.mean(axis=0)) ** 2))
    values: FloatArray = (signal + mean + scale * rng.normal(size=signal.shape)).astype(np.float32)
    return values


def _semi_orthogonal(d_0: int, d: int, rng: np.random.Generator) -> DoubleArray:
    q: DoubleArray = np.linalg.qr(rng.normal(size=(d, d_0)))[0].T
    return q


def _unit_rows(values: DoubleArray) -> DoubleArray:
    unit: DoubleArray = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def _cosines(direction: npt.ArrayLike, truths: DoubleArray) -> DoubleArray:
    vector = np.asarray(direction, dtype=np.float64)
    cosines: DoubleArray = np.abs(truths @ vector) / max(float(np.linalg.norm(vector)), 1e-300)
    return cosines
