"""Candidate pairs of latents from a matching rule, with q-values from decoy scores.

Decoys estimate how high the score of a false match gets: a latent's best score *within its own dictionary* is certainly
no match with the other. Such decoy scores c, one for each match, give

    q(c) = (1 + #{decoy >= c}) / max(1, #{match >= c})                                         (METHODS 3.2)

    settings = MatchingSettings("mutual", cut=.05, duplicate_score=.99, k=10)
    matching = match_latents(scorer, settings, (latents_A, latents_B))
    matching.pairs.edges, matching.pairs.q       # q is about 1 / matches for pairs that no decoy reaches

Near-duplicate latents of one dictionary would be each other's decoys, so they are grouped first.
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
from diptych.matching import rules
from diptych.matching.scores import Edges, Scores, SparseScores

BoolArray = npt.NDArray[np.bool_]
DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Rule = Literal["many_to_one", "one_to_many", "one_to_one", "mutual", "hungarian"]
Score = Literal["rho", "cosine", "euclidean", "mean"]
Sides = tuple[IntArray, IntArray]

BLOCK_ROWS = 4096
"""Rows converted to float64 at a time."""
MAX_DUPLICATE_ROUNDS = 100
"""Rounds of grouping at most; each round at least halves a group of equal latents."""


class Geometry(NamedTuple):
    """Decoder rows of A (mapped) and of B in B's space.

    Attributes:
        rows: float32, A's mapped rows [F_A, d_B] and B's rows [F_B, d_B], the only arrays of full size in memory
            (2 GiB per side at 131,072 latents of width 4,096).
        length: float64 [F_A] and [F_B], their norms; NaN for zero rows and for rows of A of low retention.
        retention: [F_A], ||d R|| / ||d|| over the median of all rows.
    """

    rows: tuple[FloatArray, FloatArray]
    length: tuple[DoubleArray, DoubleArray]
    retention: DoubleArray

    def unit(self, side: int, latents: IntArray) -> FloatArray:
        """Unit rows, float32 [len(latents), d_B]; NaN where `length` is NaN."""
        length = self.length[side][latents, None]
        return np.asarray(self.rows[side][latents] / length.astype(np.float32), dtype=np.float32)

    def cosines(self, i: IntArray, j: IntArray) -> DoubleArray:
        """Cosines [p] of listed pairs, NaN where `length` is NaN."""
        return self._of_pairs(i, j, lambda x, y: np.einsum("pd,pd->p", x, y)) / (self.length[0][i] * self.length[1][j])

    def distances(self, i: IntArray, j: IntArray) -> DoubleArray:
        """Euclidean distances [p] of listed pairs."""
        return self._of_pairs(i, j, lambda x, y: np.asarray(np.linalg.norm(x - y, axis=1)))

    def _of_pairs(
        self, i: IntArray, j: IntArray, measure: Callable[[DoubleArray, DoubleArray], DoubleArray]
    ) -> DoubleArray:
        values = np.empty(len(i))
        for part in in_blocks(len(i)):
            values[part] = measure(self.rows[0][i[part]].astype(np.float64), self.rows[1][j[part]].astype(np.float64))
        return values


def in_blocks(n: int) -> Iterator[slice]:
    """Slices that cover n rows, `BLOCK_ROWS` at a time."""
    return (slice(start, start + BLOCK_ROWS) for start in range(0, n, BLOCK_ROWS))


def decoder_geometry(W_dec_A: FloatArray, W_dec_B: FloatArray, slope: DoubleArray, min_retention: float) -> Geometry:
    """Decoder rows of A mapped by d -> d R, and those of B.

    Args:
        W_dec_A: [F_A, d_A].
        W_dec_B: [F_B, d_B].
        slope: R [d_A, d_B] of the map x_A -> x_B.
        min_retention: rows of A with a retention below this have `length` NaN, as their direction is mostly noise.
    """
    rows_A = np.empty((len(W_dec_A), slope.shape[1]), dtype=np.float32)
    norm, mapped_norm = np.empty(len(W_dec_A)), np.empty(len(W_dec_A))
    for part in in_blocks(len(W_dec_A)):
        rows = W_dec_A[part].astype(np.float64)
        mapped = rows @ slope
        rows_A[part], norm[part], mapped_norm[part] = mapped, _lengths(rows), _lengths(mapped)
    length_B = np.empty(len(W_dec_B))
    for part in in_blocks(len(W_dec_B)):
        length_B[part] = _lengths(W_dec_B[part].astype(np.float64))
    share = np.divide(mapped_norm, norm, out=np.zeros_like(mapped_norm), where=norm > 0)
    median = float(np.median(share))
    retention = share / median if median > 0 else np.zeros_like(share)
    is_retained = (retention >= min_retention) & (mapped_norm > 0)
    length = (np.where(is_retained, mapped_norm, np.nan), np.where(length_B > 0, length_B, np.nan))
    return Geometry((rows_A, np.asarray(W_dec_B, dtype=np.float32)), length, retention)


def _lengths(rows: DoubleArray) -> DoubleArray:
    lengths: DoubleArray = np.linalg.norm(rows, axis=1)
    return lengths


class Scorer:
    """Score matrices from one half of the documents: A with B, and each dictionary with itself.

    Args:
        codes: features of A and of B, row i the same token.
        half: [n], 0 or 1 for each row; other rows are not used.
        which: the half that is used.
        geometry: the decoder rows.
        score: kind of score.
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
        """Scores of latents of A with latents of B."""
        return self._scores((0, 1), latents, self.score)

    def within(self, side: int, latents: IntArray) -> Scores:
        """Scores of latents of one side (0 is A) with each other, none with itself."""
        return self._scores((side, side), (latents, latents), self.score)

    def cosines_within(self, side: int, latents: IntArray) -> Scores:
        """Cosines of decoder rows of one side with each other."""
        return self._scores((side, side), (latents, latents), "cosine")

    def tie_breaker(self, i: IntArray, j: IntArray) -> DoubleArray:
        """Decoder cosines [p] of listed pairs, which order equal scores; NaN where a row has none."""
        return self.geometry.cosines(i, j)

    def _scores(self, sides: tuple[int, int], latents: Sides, score: Score) -> Scores:
        is_within = sides[0] == sides[1]
        rho = None
        if score in ("rho", "mean"):
            z = [
                products.standardised_half(self.codes[side].codes, self.half, self.which, index)
                for side, index in zip(sides, latents, strict=True)
            ]
            rho = Correlations(z[0], z[1])
        if score == "rho":
            assert rho is not None
            return SparseScores(rho, is_within, self.memory)
        import torch  # slow to import, and not needed for correlations

        from diptych.matching.dense_scores import DenseScores

        x, y = (
            torch.from_numpy(
                self.geometry.rows[side][index] if score == "euclidean" else self.geometry.unit(side, index)
            ).to(self.device)
            for side, index in zip(sides, latents, strict=True)
        )
        return DenseScores(x, y, score, rho, is_within, self.memory)


class MatchingSettings(NamedTuple):
    """Settings of a matching of latents.

    Attributes:
        rule: the matching rule.
        cut: largest q of a match.
        duplicate_score: latents of one dictionary with at least this score are duplicates.
        k: candidates per latent in each scan.
    """

    rule: Rule
    cut: float
    duplicate_score: float
    k: int


class Candidates(NamedTuple):
    """Pairs of one rule: edges in the dictionaries' latent indices, decoy score and q, float64 [p]."""

    edges: Edges
    decoy: DoubleArray
    q: DoubleArray


class Matching(NamedTuple):
    """Matching of A's and B's latents on one half of the documents.

    Attributes:
        pairs: the pairs of the rule.
        candidates_a: the pairs that give A's latents their status: for many_to_one and one_to_many each latent of A
            with its best, else `pairs`.
        candidates_b: likewise for B's latents.
        representatives: for each latent of either side, the representative of its group of duplicates.
        tau: score floor of the optimal matching, between the lowest best match that passes the cut and the next score
            below; inf if none passes.
        proof: total, gap, rounds and checked of the optimal matching; empty for other rules.
    """

    pairs: Candidates
    candidates_a: Candidates
    candidates_b: Candidates
    representatives: Sides
    tau: float
    proof: dict[str, float]


def q_values(match: DoubleArray, decoy: DoubleArray) -> DoubleArray:
    """(1 + #{decoy >= c}) / max(1, #{match >= c}) at each match's score c, made monotone; in [0, 1].

    With fewer than 1 / cut matches no q is at or below the cut: .05 needs 20 matches.
    """
    order = np.argsort(-match, kind="stable")
    ordered = match[order]
    matches = np.searchsorted(-ordered, -ordered, side="right")
    decoys = len(decoy) - np.searchsorted(np.sort(decoy), ordered, side="left")
    raw = (1.0 + decoys) / np.maximum(1, matches)
    q = np.empty_like(raw)
    q[order] = np.minimum(1.0, np.minimum.accumulate(raw[::-1])[::-1])
    return q


def group_duplicates(within: Scores, duplicate_score: float) -> tuple[IntArray, Edges]:
    """Group the latents of one dictionary that score at least `duplicate_score` with each other.

    Returns:
        int64 [n], the latent of lowest index in each one's group, its representative; and the two best scores of each
        representative with the others.
    """
    n = within.shape[0]
    representative = np.arange(n)
    remaining = np.arange(n)
    edges = within.candidates(2)
    for _ in range(MAX_DUPLICATE_ROUNDS):
        close = edges.score >= duplicate_score
        if not close.any():
            break
        links = (np.ones(int(close.sum())), (edges.i[close], edges.j[close]))
        _, group = csgraph.connected_components(
            sparse.coo_array(links, shape=(len(remaining), len(remaining))), directed=False
        )
        _, first = np.unique(group, return_index=True)
        lowest = np.arange(n)
        lowest[remaining] = remaining[first[group]]
        representative, remaining = lowest[representative], remaining[np.sort(first)]
        edges = within.restrict(remaining, remaining).candidates(2)
    return representative, Edges(remaining[edges.i], remaining[edges.j], edges.score)


def _duplicates_and_decoys(
    scorer: Scorer, side: int, latents: IntArray, duplicate_score: float
) -> tuple[IntArray, DoubleArray]:
    """Representative of each latent (index into `latents`), and each one's best score within its dictionary."""
    if scorer.score == "euclidean":
        representative, _ = group_duplicates(scorer.cosines_within(side, latents), duplicate_score)
        remaining = np.unique(representative)
        local = scorer.within(side, latents[remaining]).candidates(1)
        edges = Edges(remaining[local.i], remaining[local.j], local.score)
    else:
        representative, edges = group_duplicates(scorer.within(side, latents), duplicate_score)
    best = np.full(len(latents), -np.inf)
    np.maximum.at(best, edges.i, edges.score)
    return representative, best


def _score_floor(candidates: Candidates, cut: float) -> float:
    """Midpoint of the lowest match score that passes the cut and the next lower match or decoy score."""
    score = candidates.edges.score
    passing = score[candidates.q <= cut]
    if not len(passing):
        return float("inf")
    lowest = float(passing.min())
    others = np.concatenate([score, candidates.decoy])
    below = others[np.isfinite(others) & (others < lowest)]
    return (lowest + float(below.max())) / 2 if len(below) else lowest - 1.0


def match_latents(scorer: Scorer, settings: MatchingSettings, latents: Sides) -> Matching:
    """Group duplicates, match their representatives by the rule, and compute the q of each pair.

    Args:
        scorer: scores on one half of the documents.
        settings: rule and thresholds.
        latents: the latents of A and of B to match.
    """
    a, b = (_duplicates_and_decoys(scorer, side, latents[side], settings.duplicate_score) for side in (0, 1))
    remaining = (np.unique(a[0]), np.unique(b[0]))
    members = (latents[0][remaining[0]], latents[1][remaining[1]])
    best_within = (a[1][remaining[0]], b[1][remaining[1]])
    between = scorer.between(members)
    edges = between.candidates(settings.k)
    tie = scorer.tie_breaker(members[0][edges.i], members[1][edges.j])

    def with_q(pairs: Edges) -> Candidates:
        decoy = np.maximum(best_within[0][pairs.i], best_within[1][pairs.j])
        order = np.lexsort((pairs.j, pairs.i))
        renumbered = Edges(members[0][pairs.i], members[1][pairs.j], pairs.score).take(order)
        return Candidates(renumbered, decoy[order], q_values(renumbered.score, decoy[order]))

    candidates_a, candidates_b = with_q(rules.one_to_many(edges, tie)), with_q(rules.many_to_one(edges, tie))
    tau = _score_floor(candidates_b, settings.cut)
    proof: dict[str, float] = {}
    match settings.rule:
        case "many_to_one":
            pairs = candidates_b
        case "one_to_many":
            pairs = candidates_a
        case "mutual":
            pairs = candidates_a = candidates_b = with_q(rules.mutual(edges, tie))
        case "one_to_one":
            pairs = candidates_a = candidates_b = with_q(rules.greedy(between, edges, tie, k=settings.k))
        case "hungarian":
            # Pairs that never fire together are not in a sparse matrix; their scores are not above 0.
            tau = max(tau, 0.0) if scorer.score == "rho" else tau
            optimum = rules.optimal(between, edges, tau, k=settings.k)
            proof = {
                "total": optimum.total,
                "gap": optimum.gap,
                "rounds": float(optimum.rounds),
                "checked": float(optimum.checked),
            }
            pairs = candidates_a = candidates_b = with_q(optimum.pairs)
    representatives = (latents[0][a[0]], latents[1][b[0]])
    return Matching(pairs, candidates_a, candidates_b, representatives, tau, proof)
