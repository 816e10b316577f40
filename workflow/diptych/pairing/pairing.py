"""Which latent of A is which latent of B, and which has no counterpart.

Two dictionaries of two models number their latents differently. A pairing scores latents of A against latents of B
(how alike they fire, or how alike their decoder rows are once A's are mapped into B's space), matches them by a
rule, and asks of each match whether it is better than chance:

    pairing = pair_latents(a, b, table, maps, rule="hungarian", score="cosine")
    rows_a, rows_b = pairing.kept()                   # the matched pairs
    np.flatnonzero(pairing.b.status == UNMATCHED)     # latents that B may be alone in having

"No counterpart" is an answer: each latent ends with one status. `matching.decoys` finds the pairs and their
q, `matching.rules` holds the rules, `gains` tests the unmatched. METHODS 3.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.correlation import products, stage
from diptych.correlation.products import Correlations
from diptych.correlation.stage import Table
from diptych.dictionaries.codes import Features
from diptych.matching import decoys
from diptych.matching.decoys import Candidates, Geometry, Rule, Rules, Score, Scorer, Way
from diptych.runtime.errors import DiptychError
from diptych.text.word_lists import is_stop_token

BoolArray = npt.NDArray[np.bool_]
DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]


STATUSES = ("dead", "below_min_active", "filtered_token", "filtered_rho", "unmatched", "matched")
DEAD, BELOW_MIN_ACTIVE, FILTERED_TOKEN, FILTERED_RHO, UNMATCHED, MATCHED = range(6)
PAIR_COLUMNS = {
    "a": "latent of A",
    "b": "latent of B",
    "outcome": "index into statuses: filtered_token, filtered_rho, unmatched or matched",
    "score": "the pairing's own score",
    "decoy": "the better of both latents' best scores within their own dictionary",
    "q": "decoys over matches at or above this score",
    "replicated": "1 if the other half of the documents makes the same match, 0 if not; -1 where no half is used",
    "cosine": "of decoder rows, A's mapped into B's space; NaN where the map does not carry A's",
    "cosine_unrelated": "the same with the match of another pair: what features that are no match reach",
    "distance": "Euclidean, of the same rows",
    "encoder_cosine": "of encoder columns, A's mapped with the reverse map",
    "rho_selected": "correlation on the half that chose",
    "rho_held_out": "correlation on the other half",
    "density_a": "share of the pair's rows on which A's latent fires",
    "density_b": "likewise for B",
    "density_ratio": "density_b / density_a",
    "size_ratio": "mean activation where it fires, B's latent over A's",
    "retention": "||d R|| / ||d|| of A's decoder row over the median of all",
    "norm_a": "||w_enc|| of A's latent over the largest of A",
    "norm_b": "likewise for B",
    "norm_difference": "norm_a - norm_b (published sign: A minus B)",
    "decoder_norm_difference": "the same of decoder rows",
}
"""Columns of a pairing's table of candidate pairs."""


@dataclass(frozen=True)
class Side:
    """One model's dictionary with its codes on the pair's rows.

    Attributes:
        codes: its features on the rows that both models have.
        W_enc: float32 [d, F].
        W_dec: float32 [F, d].
        top_tokens: for each latent the texts of the tokens on which it fires most, best first.
    """

    codes: Features
    W_enc: FloatArray
    W_dec: FloatArray
    top_tokens: Sequence[Sequence[str]]

    @property
    def words(self) -> list[frozenset[str]]:
        """For each latent its top tokens as they are compared: stripped and lower-cased."""
        return [frozenset(token.strip().lower() for token in tokens) for tokens in self.top_tokens]

    @property
    def stop(self) -> BoolArray:
        """[F]: whether a stop token is among a latent's top tokens."""
        return np.array([any(is_stop_token(token) for token in tokens) for tokens in self.top_tokens], dtype=bool)


class Slopes(NamedTuple):
    """Slopes of the linear maps between the spaces: `forward` [d_A, d_B] (x_A -> x_B) and `backward` [d_B, d_A]."""

    forward: DoubleArray
    backward: DoubleArray


class Filters(NamedTuple):
    """What a candidate pair must pass: q at most `cut`; with `concept`, its top tokens and rho > `rho_floor`."""

    cut: float
    concept: bool
    rho_floor: float


@dataclass(frozen=True)
class Verdicts:
    """What became of each latent of one side; arrays [F].

    Attributes:
        status: int8, index into `STATUSES`.
        partner: int64, the other side's latent of its candidate pair, matched or not; -1 without one.
        q: float64, of that pair; NaN without one.
        score: float64, of that pair; NaN without one.
        stands_for: int64, the latent whose verdict it shares: itself, unless it has a twin of lower index.
    """

    status: Int8Array
    partner: IntArray
    q: DoubleArray
    score: DoubleArray
    stands_for: IntArray

    def unmatched(self) -> IntArray:
        """Latents that may be only in this model, one for each group of twins."""
        alone = self.stands_for == np.arange(len(self.status))
        return np.flatnonzero((self.status == UNMATCHED) & alone)


@dataclass(frozen=True)
class Pairing:
    """A pairing with everything that led to it.

    Attributes:
        pairs: the candidate pairs of the rule in order of (a, b), columns as in `PAIR_COLUMNS`.
        a: verdicts on A's latents.
        b: verdicts on B's latents.
        summary: counts after every step, twins, floor, proof of optimality, norm differences.
    """

    pairs: dict[str, npt.NDArray[Any]]
    a: Verdicts
    b: Verdicts
    summary: dict[str, Any]

    def kept(self) -> tuple[IntArray, IntArray]:
        """(latents of A, latents of B) of the matched pairs."""
        matched = self.pairs["outcome"] == MATCHED
        return self.pairs["a"][matched], self.pairs["b"][matched]


def pair_latents(
    a: Side,
    b: Side,
    table: Table,
    slopes: Slopes,
    *,
    rule: Rule = "mutual",
    score: Score = "rho",
    cut: float = 0.05,
    twin: float = 0.99,
    min_retention: float = 0.1,
    concept_filter: bool = True,
    rho_floor: float = 0.1,
    candidates: int = 10,
    memory: int = 2**30,
    device: str = "cpu",
) -> Pairing:
    """Pair two dictionaries' latents and give each one status (METHODS 3.2).

    Pairs are made on the first half of the documents; `rho_held_out` is of the second half, and `replicated` says
    whether the second half, choosing by itself, makes the same match. The test fold takes no part.

    Args:
        a: A's side; row i of its codes is the same token as row i of b's.
        b: B's side.
        table: which latents are eligible, and the halves of the documents.
        slopes: of the maps between the spaces.
        rule: how pairs are made.
        score: what makes two latents alike.
        cut: q above this is `unmatched`; 1 cuts nothing.
        twin: latents of one dictionary that score at least this are grouped (by cosine for `euclidean`).
        min_retention: below this share of the median ||d R|| / ||d|| a decoder row of A has no cosine.
        concept_filter: drop pairs whose top tokens hold a stop token or share none, then those of low correlation.
        rho_floor: that low correlation.
        candidates: best scores looked at per latent at a time; changes the time taken, not the pairs.
        memory: bytes a block of scores may take.
        device: where decoder cosines are computed.

    Raises:
        DiptychError: no latent of one side is eligible.
    """
    geometry = decoys.decoder_geometry(a.W_dec, b.W_dec, slopes.forward, min_retention)
    latents = _taking_part(table, geometry, score)
    half = table.halves.of(a.codes.document)
    ways = []
    for h in (0, 1) if score in ("rho", "mean") else (0,):
        scorer = Scorer((a.codes, b.codes), half, h, geometry, score=score, memory=memory, device=device)
        ways.append(decoys.find(scorer, Rules(rule, cut, twin, candidates), latents))
    way, filters = ways[0], Filters(cut, concept_filter, rho_floor)
    judge = _Judge(a, b, half, filters)
    outcome, steps = judge.outcomes(way.pairs)
    pairs = _pair_columns(a, b, slopes, geometry, way, judge)
    pairs |= {"outcome": outcome, "replicated": _replicated(ways, cut)}
    pairs |= _densities(table, way.pairs.edges.i, way.pairs.edges.j)
    pairs["size_ratio"] = _sizes(b.codes, way.pairs.edges.j) / _sizes(a.codes, way.pairs.edges.i)
    verdicts_a = _verdicts(table.a, _stands_for(table.a, latents[0], way.stands_for[0]), way.of_a, judge, 0)
    verdicts_b = _verdicts(table.b, _stands_for(table.b, latents[1], way.stands_for[1]), way.of_b, judge, 1)
    ordered = {name: pairs[name] for name in PAIR_COLUMNS}
    summary = _summary(ordered, verdicts_a, verdicts_b, way) | {"steps": steps, "score": score, "rule": rule}
    summary["cut"] = cut
    summary["not_carried_by_map"] = int((geometry.retention < min_retention).sum())
    return Pairing(ordered, verdicts_a, verdicts_b, summary)


def _taking_part(table: Table, geometry: Geometry, score: Score) -> tuple[IntArray, IntArray]:
    """Eligible latents of either side that have the score at all."""
    chosen = []
    for name, side, length in (("A", table.a, geometry.length[0]), ("B", table.b, geometry.length[1])):
        has_score = np.full(len(length), True) if score == "rho" else np.isfinite(length)
        chosen.append(np.flatnonzero(side.eligible & has_score))
        if not len(chosen[-1]):
            raise DiptychError(
                f"pairing: no latent of {name} is eligible; lower correlation.min_active or take more text"
            )
    return chosen[0], chosen[1]


class _Judge:
    """Passes candidate pairs through the cut and the non-concept filter."""

    def __init__(self, a: Side, b: Side, half: IntArray, filters: Filters) -> None:
        self._codes, self._half, self._filters = (a.codes, b.codes), half, filters
        self._words = (a.words, b.words)
        self.stop = (a.stop, b.stop) if filters.concept else (np.zeros_like(a.stop), np.zeros_like(b.stop))

    def rho(self, i: IntArray, j: IntArray, which: int) -> DoubleArray:
        """Correlations [p] of listed pairs on one half."""
        z, local = [], []
        for codes, latents in zip(self._codes, (i, j), strict=True):
            names, at = np.unique(latents, return_inverse=True)
            z.append(products.standardised_half(codes.codes, self._half, which, names))
            local.append(at)
        return Correlations(z[0], z[1]).at(local[0], local[1])

    def outcomes(self, candidates: Candidates) -> tuple[Int8Array, dict[str, int]]:
        """Status of each candidate pair, and the number of pairs left after every step.

        The cut comes first: a latent without a counterpart shares no tokens with whatever it is paired with, and
        would be lost among the filtered.
        """
        i, j = candidates.edges.i, candidates.edges.j
        outcome = np.full(len(i), MATCHED, dtype=np.int8)
        steps = {"candidates": len(i)}

        def drop(bad: BoolArray, status: int, step: str) -> None:
            outcome[(outcome == MATCHED) & bad] = status
            steps[step] = int((outcome == MATCHED).sum())

        drop(candidates.q > self._filters.cut, UNMATCHED, "q")
        if self._filters.concept:
            drop(self.stop[0][i] | self.stop[1][j], FILTERED_TOKEN, "stop_token")
            left, right = self._words
            disjoint = [left[p].isdisjoint(right[r]) for p, r in zip(i.tolist(), j.tolist(), strict=True)]
            drop(np.array(disjoint, dtype=bool), FILTERED_TOKEN, "shared_token")
            drop(~(self.rho(i, j, 0) > self._filters.rho_floor), FILTERED_RHO, "rho")
        return outcome, steps


def _stands_for(side: stage.Partners, latents: IntArray, standing: IntArray) -> IntArray:
    """[F]: the latent that stands for each; for those that take no part, themselves."""
    stands_for = np.arange(len(side.eligible))
    stands_for[latents] = standing
    return stands_for


def _verdicts(
    side: stage.Partners, stands_for: IntArray, candidates: Candidates, judge: _Judge, which: int
) -> Verdicts:
    """Each latent of a side by its candidate pair; twins share the verdict of the one that stands for them.

    A latent that fires on stop tokens is filtered even without a match: the filter is about what it is.
    """
    n, pairs = len(side.eligible), (candidates.edges.i, candidates.edges.j)
    own, other = pairs[which], pairs[1 - which]
    status = np.full(n, UNMATCHED, dtype=np.int8)
    partner, q, score = np.full(n, -1, dtype=np.int64), np.full(n, np.nan), np.full(n, np.nan)
    status[own] = judge.outcomes(candidates)[0]
    partner[own], q[own], score[own] = other, candidates.q, candidates.edges.score
    status[(status == UNMATCHED) & judge.stop[which]] = FILTERED_TOKEN
    status[~side.eligible] = BELOW_MIN_ACTIVE
    status[side.density == 0] = DEAD
    return Verdicts(status[stands_for], partner[stands_for], q[stands_for], score[stands_for], stands_for)


def _pair_columns(
    a: Side, b: Side, slopes: Slopes, geometry: Geometry, way: Way, judge: _Judge
) -> dict[str, npt.NDArray[Any]]:
    """The columns of the candidate pairs that follow from weights and codes."""
    i, j = way.pairs.edges.i, way.pairs.edges.j
    norm_a, norm_b = _relative_norms(a.W_enc.T)[i], _relative_norms(b.W_enc.T)[j]
    return {
        "a": i,
        "b": j,
        "score": way.pairs.edges.score,
        "decoy": way.pairs.decoy,
        "q": way.pairs.q,
        "cosine": geometry.cosines(i, j),
        "cosine_unrelated": geometry.cosines(i, np.roll(j, len(j) // 2)),
        "distance": geometry.distances(i, j),
        "encoder_cosine": _encoder_cosines(a.W_enc, b.W_enc, slopes.backward, i, j),
        "rho_selected": judge.rho(i, j, 0),
        "rho_held_out": judge.rho(i, j, 1),
        "retention": geometry.retention[i],
        "norm_a": norm_a,
        "norm_b": norm_b,
        "norm_difference": norm_a - norm_b,
        "decoder_norm_difference": _relative_norms(a.W_dec)[i] - _relative_norms(b.W_dec)[j],
    }


def _densities(table: Table, i: IntArray, j: IntArray) -> dict[str, DoubleArray]:
    density_a, density_b = table.a.density[i], table.b.density[j]
    return {"density_a": density_a, "density_b": density_b, "density_ratio": density_b / density_a}


def _sizes(codes: Features, latents: IntArray) -> DoubleArray:
    """Mean activation of each latent over the rows on which it fires; candidates fire on some."""
    firing = np.bincount(codes.csr.indices, minlength=codes.n_features)
    total = np.bincount(codes.csr.indices, weights=codes.csr.data, minlength=codes.n_features)
    sizes: DoubleArray = total[latents] / firing[latents]
    return sizes


def _relative_norms(rows: npt.NDArray[Any]) -> DoubleArray:
    """Length of each row over the greatest."""
    norms = np.empty(len(rows))
    for part in decoys.in_blocks(len(rows)):
        norms[part] = np.linalg.norm(rows[part].astype(np.float64), axis=1)
    return np.asarray(norms / max(float(norms.max(initial=0.0)), np.finfo(np.float64).tiny), dtype=np.float64)


def _encoder_cosines(
    W_enc_A: FloatArray, W_enc_B: FloatArray, backward: DoubleArray, i: IntArray, j: IntArray
) -> DoubleArray:
    """Cosine of listed encoder columns, A's mapped with the reverse map: w_B = R_{B->A} w_A."""
    cosine = np.empty(len(i))
    for part in decoys.in_blocks(len(i)):
        mapped = W_enc_A[:, i[part]].T.astype(np.float64) @ backward.T
        cosine[part] = _cosines(mapped, W_enc_B[:, j[part]].T.astype(np.float64))
    return cosine


def _cosines(x: DoubleArray, y: DoubleArray) -> DoubleArray:
    """Cosine of each row of x with that of y; NaN for rows of zeros."""
    length = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    dot = np.einsum("pd,pd->p", x, y)
    return np.asarray(np.divide(dot, length, out=np.full(len(dot), np.nan), where=length > 0))


def _replicated(ways: Sequence[Way], cut: float) -> Int8Array:
    """For each pair of the first way, whether the second makes it too, as a match."""
    edges = ways[0].pairs.edges
    if len(ways) == 1:
        return np.full(len(edges.i), -1, dtype=np.int8)
    again = ways[1].pairs.edges.take(ways[1].pairs.q <= cut)
    width = 1 + max(int(edges.j.max(initial=0)), int(again.j.max(initial=0)))
    return np.isin(edges.i * width + edges.j, again.i * width + again.j).astype(np.int8)


def _summary(pairs: Mapping[str, npt.NDArray[Any]], a: Verdicts, b: Verdicts, way: Way) -> dict[str, Any]:
    matched = pairs["outcome"] == MATCHED
    difference = np.abs(pairs["norm_difference"][matched])
    sizes = {"mean": difference.mean(), "max": difference.max(), "min": difference.min()} if matched.any() else {}
    return {
        "matched": int(matched.sum()),
        "norm_difference_abs": sizes,
        "rho_held_out_mean": pairs["rho_held_out"][matched].mean() if matched.any() else None,
        "replicated_share": pairs["replicated"][matched].mean() if matched.any() else None,
        "status_a": {name: int((a.status == code).sum()) for code, name in enumerate(STATUSES)},
        "status_b": {name: int((b.status == code).sum()) for code, name in enumerate(STATUSES)},
        "twins_a": int((a.stands_for != np.arange(len(a.status))).sum()),
        "twins_b": int((b.stands_for != np.arange(len(b.status))).sum()),
        "tau": way.tau,
        "proof": way.proof,
        "lowest_q_possible": 1.0 / max(1, len(way.pairs.q)),
    }
