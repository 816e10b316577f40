"""Candidate counterparts: twins grouped, latents matched by a rule, and each match held against decoys.

How high does a score get without a counterpart? The dictionaries say so themselves: a latent's best fit *within its
own dictionary* is certainly not its counterpart in the other. Such decoy scores c, one for each match, give

    q(c) = (1 + #{decoy >= c}) / max(1, #{match >= c})                                         (METHODS 3.2)

    way = find(scorer, Rules("mutual", cut=.05, twin=.99, k=10), (latents_A, latents_B))
    way.pairs.edges, way.pairs.q       # q is about 1 / matches for pairs that no decoy reaches

Two latents of one dictionary that are all but equal would be each other's decoys; they are grouped first.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from diptych.correlation import products
from diptych.correlation.products import Correlations
from diptych.dictionaries.codes import Features
from diptych.matching import rules as matching
from diptych.matching.scores import Edges, Scores, SparseScores

BoolArray = npt.NDArray[np.bool_]
DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Rule = Literal["many_to_one", "one_to_many", "one_to_one", "mutual", "hungarian"]
Score = Literal["rho", "cosine", "euclidean", "mean"]
Sides = tuple[IntArray, IntArray]

BLOCK = 4096
"""Rows that are handled in float64 at a time."""
MAX_DUPLICATE_ROUNDS = 100
"""Grouping looks again at what is left until nothing is grouped; a round at least halves a crowd of equals."""


class Geometry(NamedTuple):
    """Decoder rows side by side in B's space.

    Attributes:
        rows: float32, A's mapped [F_A, d_B], and B's own [F_B, d_B]: all that is held of full size (2 GiB a side at
            131,072 latents of width 4,096).
        length: float64 [F_A] and [F_B], their lengths; NaN for rows that the map does not carry or that are zero.
        retention: [F_A], ||d R|| / ||d|| over its median.
    """

    rows: tuple[FloatArray, FloatArray]
    length: tuple[DoubleArray, DoubleArray]
    retention: DoubleArray

    def unit(self, side: int, latents: IntArray) -> FloatArray:
        """Rows of length 1, float32 [len(latents), d_B]; NaN for those without a direction."""
        length = self.length[side][latents, None]
        return np.asarray(self.rows[side][latents] / length.astype(np.float32), dtype=np.float32)

    def cosines(self, i: IntArray, j: IntArray) -> DoubleArray:
        """Cosines [p] of listed pairs, NaN where a row has no direction."""
        return self._of_pairs(i, j, lambda x, y: np.einsum("pd,pd->p", x, y)) / (self.length[0][i] * self.length[1][j])

    def distances(self, i: IntArray, j: IntArray) -> DoubleArray:
        """Euclidean distances [p] of listed pairs."""
        return self._of_pairs(i, j, lambda x, y: np.asarray(np.linalg.norm(x - y, axis=1)))

    def _of_pairs(
        self, i: IntArray, j: IntArray, measure: Callable[[DoubleArray, DoubleArray], DoubleArray]
    ) -> DoubleArray:
        cosines = np.empty(len(i))
        for part in in_blocks(len(i)):
            cosines[part] = measure(self.rows[0][i[part]].astype(np.float64), self.rows[1][j[part]].astype(np.float64))
        return cosines


def in_blocks(n: int) -> Iterator[slice]:
    """Slices that cover n rows, `BLOCK` at a time."""
    return (slice(start, start + BLOCK) for start in range(0, n, BLOCK))


def decoder_geometry(W_dec_A: FloatArray, W_dec_B: FloatArray, slope: DoubleArray, min_retention: float) -> Geometry:
    """Decoder rows of A mapped with d -> d R beside those of B.

    Args:
        W_dec_A: [F_A, d_A].
        W_dec_B: [F_B, d_B].
        slope: R [d_A, d_B] of the map x_A -> x_B.
        min_retention: a row that keeps a smaller share of its length than this share of the median has no direction.
    """
    rows_A = np.empty((len(W_dec_A), slope.shape[1]), dtype=np.float32)
    before, after = np.empty(len(W_dec_A)), np.empty(len(W_dec_A))
    for part in in_blocks(len(W_dec_A)):
        rows = W_dec_A[part].astype(np.float64)
        mapped = rows @ slope
        rows_A[part], before[part], after[part] = mapped, _lengths(rows), _lengths(mapped)
    length_B = np.empty(len(W_dec_B))
    for part in in_blocks(len(W_dec_B)):
        length_B[part] = _lengths(W_dec_B[part].astype(np.float64))
    share = np.divide(after, before, out=np.zeros_like(after), where=before > 0)
    middle = float(np.median(share))
    retention = share / middle if middle > 0 else np.zeros_like(share)
    retained = (retention >= min_retention) & (after > 0)
    length = (np.where(retained, after, np.nan), np.where(length_B > 0, length_B, np.nan))
    return Geometry((rows_A, np.asarray(W_dec_B, dtype=np.float32)), length, retention)


def _lengths(rows: DoubleArray) -> DoubleArray:
    lengths: DoubleArray = np.linalg.norm(rows, axis=1)
    return lengths


class Scorer:
    """Makes score matrices from one half of the documents: A with B, and each dictionary with itself.

    Args:
        codes: features of A and of B, row i the same token.
        half: [n], 0 or 1 for each row; others take no part.
        which: the half that is used.
        geometry: the decoder rows.
        score: what makes two latents alike.
        memory: bytes a block may take.
        device: where cosines are computed.
    """

    def __init__(
        self,
        codes: tuple[Features, Features],
        half: IntArray,
        which: int,
        geometry: Geometry,
        *,
        score: Score,
        memory: int,
        device: str,
    ) -> None:
        self.codes, self.half, self.which, self.geometry = codes, half, which, geometry
        self.score, self.memory, self.device = score, memory, device

    def between(self, latents: Sides) -> Scores:
        """Latents of A with latents of B."""
        return self._make((0, 1), latents, self.score)

    def within(self, side: int, latents: IntArray) -> Scores:
        """Latents of one side (0 is A) with each other, none with itself."""
        return self._make((side, side), (latents, latents), self.score)

    def cosines_within(self, side: int, latents: IntArray) -> Scores:
        """Cosines of decoder rows of one side with each other."""
        return self._make((side, side), (latents, latents), "cosine")

    def tie(self, i: IntArray, j: IntArray) -> DoubleArray:
        """Decoder cosines [p] of listed pairs, NaN where there is none."""
        return self.geometry.cosines(i, j)

    def _make(self, sides: tuple[int, int], latents: Sides, score: Score) -> Scores:
        own = sides[0] == sides[1]
        rho = None
        if score in ("rho", "mean"):
            z = [
                products.standardised_half(self.codes[side].codes, self.half, self.which, index)
                for side, index in zip(sides, latents, strict=True)
            ]
            rho = Correlations(z[0], z[1])
        if score == "rho":
            assert rho is not None
            return SparseScores(rho, own, self.memory)
        import torch  # takes longer than most pairings by correlation, which do without

        from diptych.matching.dense_scores import DenseScores

        x, y = (
            torch.from_numpy(
                self.geometry.rows[side][index] if score == "euclidean" else self.geometry.unit(side, index)
            ).to(self.device)
            for side, index in zip(sides, latents, strict=True)
        )
        return DenseScores(x, y, score, rho, own, self.memory)


class Rules(NamedTuple):
    """How latents are matched: rule, q of the cut, score of twins, and candidates looked at per latent."""

    rule: Rule
    cut: float
    twin: float
    k: int


class Candidates(NamedTuple):
    """Pairs of one rule with their significance: edges in the dictionaries' numbering, decoy and q float64 [p]."""

    edges: Edges
    decoy: DoubleArray
    q: DoubleArray


class Way(NamedTuple):
    """What one half of the documents says.

    Attributes:
        pairs: the pairs of the rule.
        of_a: the pairs by which A's latents are judged: each with its best for the many-rules, else `pairs`.
        of_b: likewise for B's.
        stands_for: for each side's latents that take part, the latent that stands for its group of twins.
        tau: floor of the matching: between the lowest best match that passes the cut and the next score below;
            inf if none passes.
        proof: total, gap, rounds and checked of the optimal matching; empty for other rules.
    """

    pairs: Candidates
    of_a: Candidates
    of_b: Candidates
    stands_for: Sides
    tau: float
    proof: dict[str, float]


def q_values(match: DoubleArray, decoy: DoubleArray) -> DoubleArray:
    """(1 + #{decoy >= c}) / max(1, #{match >= c}) at each match's score c, made monotone; in [0, 1].

    Below 1 / cut matches nothing can reach the cut: 20 matches are needed for .05.
    """
    order = np.argsort(-match, kind="stable")
    ordered = match[order]
    matches = np.searchsorted(-ordered, -ordered, side="right")
    decoys = len(decoy) - np.searchsorted(np.sort(decoy), ordered, side="left")
    raw = (1.0 + decoys) / np.maximum(1, matches)
    q = np.empty_like(raw)
    q[order] = np.minimum(1.0, np.minimum.accumulate(raw[::-1])[::-1])
    return q


def group_duplicates(own: Scores, twin: float) -> tuple[IntArray, Edges]:
    """Group the latents of one dictionary that score at least `twin` with each other.

    Returns:
        int64 [n], the latent of lowest index that stands for each one's group; and the best scores among those
        that stand.
    """
    n = own.shape[0]
    stands_for = np.arange(n)
    remaining = np.arange(n)
    edges = own.candidates(2)
    for _ in range(MAX_DUPLICATE_ROUNDS):
        close = edges.score >= twin
        if not close.any():
            break
        links = (np.ones(int(close.sum())), (edges.i[close], edges.j[close]))
        _, group = csgraph.connected_components(
            sparse.coo_array(links, shape=(len(remaining), len(remaining))), directed=False
        )
        _, first = np.unique(group, return_index=True)
        lowest = np.arange(n)
        lowest[remaining] = remaining[first[group]]
        stands_for, remaining = lowest[stands_for], remaining[np.sort(first)]
        edges = own.restrict(remaining, remaining).candidates(2)
    return stands_for, Edges(remaining[edges.i], remaining[edges.j], edges.score)


def _duplicates_and_decoys(scorer: Scorer, side: int, latents: IntArray, twin: float) -> tuple[IntArray, DoubleArray]:
    """Who stands for each latent (index into `latents`), and the best score of those that stand with each other."""
    if scorer.score == "euclidean":
        stands_for, _ = group_duplicates(scorer.cosines_within(side, latents), twin)
        remaining = np.unique(stands_for)
        local = scorer.within(side, latents[remaining]).candidates(1)
        edges = Edges(remaining[local.i], remaining[local.j], local.score)
    else:
        stands_for, edges = group_duplicates(scorer.within(side, latents), twin)
    best = np.full(len(latents), -np.inf)
    np.maximum.at(best, edges.i, edges.score)
    return stands_for, best


def _floor(candidates: Candidates, cut: float) -> float:
    """Between the lowest score that passes the cut and the next lower match or decoy: the same pairs pass."""
    score = candidates.edges.score
    passed = score[candidates.q <= cut]
    if not len(passed):
        return float("inf")
    lowest = float(passed.min())
    others = np.concatenate([score, candidates.decoy])
    below = others[np.isfinite(others) & (others < lowest)]
    return (lowest + float(below.max())) / 2 if len(below) else lowest - 1.0


def find(scorer: Scorer, rules: Rules, latents: Sides) -> Way:
    """Group twins, match those that stand for them by the rule, and give each pair its q.

    Args:
        scorer: scores on one half of the documents.
        rules: the settings.
        latents: the latents of A and of B that take part.
    """
    a, b = (_duplicates_and_decoys(scorer, side, latents[side], rules.twin) for side in (0, 1))
    remaining = (np.unique(a[0]), np.unique(b[0]))
    names = (latents[0][remaining[0]], latents[1][remaining[1]])
    best = (a[1][remaining[0]], b[1][remaining[1]])
    between = scorer.between(names)
    edges = between.candidates(rules.k)
    tie = scorer.tie(names[0][edges.i], names[1][edges.j])

    def judged(pairs: Edges) -> Candidates:
        decoy = np.maximum(best[0][pairs.i], best[1][pairs.j])
        order = np.lexsort((pairs.j, pairs.i))
        named = Edges(names[0][pairs.i], names[1][pairs.j], pairs.score).take(order)
        return Candidates(named, decoy[order], q_values(named.score, decoy[order]))

    of_a, of_b = judged(matching.one_to_many(edges, tie)), judged(matching.many_to_one(edges, tie))
    tau = _floor(of_b, rules.cut)
    proof: dict[str, float] = {}
    match rules.rule:
        case "many_to_one":
            pairs = of_b
        case "one_to_many":
            pairs = of_a
        case "mutual":
            pairs = of_a = of_b = judged(matching.mutual(edges, tie))
        case "one_to_one":
            pairs = of_a = of_b = judged(matching.greedy(between, edges, tie, k=rules.k))
        case "hungarian":
            # Pairs that never fire together are not in a sparse matrix; their scores are not above 0.
            tau = max(tau, 0.0) if scorer.score == "rho" else tau
            best_total = matching.optimal(between, edges, tau, k=rules.k)
            proof = {
                "total": best_total.total,
                "gap": best_total.gap,
                "rounds": float(best_total.rounds),
                "checked": float(best_total.checked),
            }
            pairs = of_a = of_b = judged(best_total.pairs)
    stands_for = (latents[0][a[0]], latents[1][b[0]])
    return Way(pairs, of_a, of_b, stands_for, tau, proof)
