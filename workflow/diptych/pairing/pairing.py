"""Pairing of A's and B's latents: which correspond, and which have no match.

A pairing scores latents of A's dictionary against latents of B's (by the correlation of their activations, or by the
similarity of their decoder rows after mapping A's into B's space), matches them by a rule, and keeps the matches
whose score is better than chance:

    pairing = pair_latents(a, b, table, maps, rule="hungarian", score="cosine")
    latents_a, latents_b = pairing.matched()          # the matched pairs
    np.flatnonzero(pairing.b.status == UNMATCHED)     # latents that may be only in B

Each latent has one status. `matching.decoys` computes the pairs and their q, `matching.rules` has the rules, `gains`
tests the unmatched latents. METHODS 3.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.correlation import products, stage
from diptych.correlation.products import Correlations
from diptych.correlation.stage import CorrelationTable
from diptych.dictionaries.codes import Features
from diptych.matching import decoys
from diptych.matching.decoys import Candidates, Geometry, Matching, MatchingSettings, Rule, Score, Scorer
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
        codes: on the rows common to both models.
        W_enc: float32 [d, F].
        W_dec: float32 [F, d].
        top_tokens: for each latent the tokens (as text) on which it fires most, best first.
    """

    codes: Features
    W_enc: FloatArray
    W_dec: FloatArray
    top_tokens: Sequence[Sequence[str]]

    @property
    def normalised_tokens(self) -> list[frozenset[str]]:
        """For each latent its top tokens, stripped and lower-cased for comparison."""
        return [frozenset(token.strip().lower() for token in tokens) for tokens in self.top_tokens]

    @property
    def has_stop_token(self) -> BoolArray:
        """Whether a stop token is among a latent's top tokens, [F]."""
        return np.array([any(is_stop_token(token) for token in tokens) for tokens in self.top_tokens], dtype=bool)


class Slopes(NamedTuple):
    """Slopes of the linear maps between the spaces: `forward` [d_A, d_B] (x_A -> x_B) and `backward` [d_B, d_A]."""

    forward: DoubleArray
    backward: DoubleArray


class Filters(NamedTuple):
    """Conditions on a match: q at most `cut`; with `concept`, a shared top token, no stop token, rho > `rho_floor`."""

    cut: float
    concept: bool
    rho_floor: float


@dataclass(frozen=True)
class LatentStatuses:
    """Status of each latent of one side, and its candidate pair; arrays [F].

    Attributes:
        status: int8, index into `STATUSES`.
        partner: int64, the other side's latent in its candidate pair, matched or not; -1 without one.
        q: float64, q of that pair; NaN without one.
        score: float64, score of that pair; NaN without one.
        representative: int64, the latent of lowest index among its duplicates, whose status it shares.
    """

    status: Int8Array
    partner: IntArray
    q: DoubleArray
    score: DoubleArray
    representative: IntArray

    def unmatched(self) -> IntArray:
        """Unmatched latents, one per group of duplicates."""
        is_representative = self.representative == np.arange(len(self.status))
        return np.flatnonzero((self.status == UNMATCHED) & is_representative)


@dataclass(frozen=True)
class Pairing:
    """The pairing of two dictionaries' latents.

    Attributes:
        pairs: the rule's candidate pairs in order of (a, b), columns as in `PAIR_COLUMNS`.
        a: statuses of A's latents.
        b: statuses of B's latents.
        summary: counts after each filter, duplicates, score floor, proof of optimality, norm differences.
    """

    pairs: dict[str, npt.NDArray[Any]]
    a: LatentStatuses
    b: LatentStatuses
    summary: dict[str, Any]

    def matched(self) -> tuple[IntArray, IntArray]:
        """(latents of A, latents of B) of the matched pairs."""
        is_matched = self.pairs["outcome"] == MATCHED
        return self.pairs["a"][is_matched], self.pairs["b"][is_matched]


def pair_latents(
    a: Side,
    b: Side,
    table: CorrelationTable,
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
    """Pair two dictionaries' latents and give each latent a status (METHODS 3.2).

    Pairs are matched on the first half of the documents; `rho_held_out` is of the second half, and `replicated` is
    whether matching on the second half alone gives the same pair. The test fold is not used.

    Args:
        a: A's side; row i of its codes is the same token as row i of b's.
        b: B's side.
        table: which latents are eligible, and the halves of the documents.
        slopes: of the maps between the spaces.
        rule: the matching rule.
        score: kind of score.
        cut: pairs with q above this are `unmatched`; 1 keeps all.
        twin: latents of one dictionary that score at least this are duplicates (by cosine for `euclidean`).
        min_retention: below this share of the median ||d R|| / ||d|| a decoder row of A has no cosine.
        concept_filter: drop pairs with a stop token among their top tokens or no shared one, then those of low rho.
        rho_floor: pairs at or below this correlation are dropped.
        candidates: best scores per latent in each scan; changes the time taken, not the pairs.
        memory: bytes per block of scores.
        device: where decoder cosines are computed.

    Raises:
        DiptychError: no latent of one side is eligible.
    """
    geometry = decoys.decoder_geometry(a.W_dec, b.W_dec, slopes.forward, min_retention)
    latents = _scorable_latents(table, geometry, score)
    half = table.halves.of(a.codes.document)
    matchings = []
    for h in (0, 1) if score in ("rho", "mean") else (0,):
        scorer = Scorer((a.codes, b.codes), half, h, geometry, score=score, memory=memory, device=device)
        matchings.append(decoys.match_latents(scorer, MatchingSettings(rule, cut, twin, candidates), latents))
    matching, filters = matchings[0], Filters(cut, concept_filter, rho_floor)
    pair_filter = _PairFilter(a, b, half, filters)
    outcome, steps = pair_filter.outcomes(matching.pairs)
    pairs = _pair_columns(a, b, slopes, geometry, matching, pair_filter)
    pairs |= {"outcome": outcome, "replicated": _replicated(matchings, cut)}
    i, j = matching.pairs.edges.i, matching.pairs.edges.j
    pairs |= _densities(table, i, j)
    pairs["size_ratio"] = _mean_activations(b.codes, j) / _mean_activations(a.codes, i)
    representative_a = _representatives(table.a, latents[0], matching.representatives[0])
    representative_b = _representatives(table.b, latents[1], matching.representatives[1])
    statuses_a = _statuses(table.a, representative_a, matching.candidates_a, pair_filter, 0)
    statuses_b = _statuses(table.b, representative_b, matching.candidates_b, pair_filter, 1)
    ordered = {name: pairs[name] for name in PAIR_COLUMNS}
    summary = _summary(ordered, statuses_a, statuses_b, matching) | {"steps": steps, "score": score, "rule": rule}
    summary["cut"] = cut
    summary["not_carried_by_map"] = int((geometry.retention < min_retention).sum())
    return Pairing(ordered, statuses_a, statuses_b, summary)


def _scorable_latents(table: CorrelationTable, geometry: Geometry, score: Score) -> tuple[IntArray, IntArray]:
    """Eligible latents of either side that have a score."""
    latents = []
    for name, side, length in (("A", table.a, geometry.length[0]), ("B", table.b, geometry.length[1])):
        has_score = np.full(len(length), True) if score == "rho" else np.isfinite(length)
        latents.append(np.flatnonzero(side.eligible & has_score))
        if not len(latents[-1]):
            raise DiptychError(
                f"pairing: no latent of {name} is eligible; lower correlation.min_active or take more text"
            )
    return latents[0], latents[1]


class _PairFilter:
    """Filters candidate pairs by the cut of q and the non-concept filter."""

    def __init__(self, a: Side, b: Side, half: IntArray, filters: Filters) -> None:
        self._codes, self._half, self._filters = (a.codes, b.codes), half, filters
        self._tokens = (a.normalised_tokens, b.normalised_tokens)
        self.has_stop_token = (a.has_stop_token & filters.concept, b.has_stop_token & filters.concept)

    def rho(self, i: IntArray, j: IntArray, which: int) -> DoubleArray:
        """Correlations [p] of listed pairs on one half."""
        z, local = [], []
        for codes, latents in zip(self._codes, (i, j), strict=True):
            unique, index = np.unique(latents, return_inverse=True)
            z.append(products.standardised_half(codes.codes, self._half, which, unique))
            local.append(index)
        return Correlations(z[0], z[1]).at(local[0], local[1])

    def outcomes(self, candidates: Candidates) -> tuple[Int8Array, dict[str, int]]:
        """Status of each candidate pair, and the number of pairs that remain after each filter.

        The cut comes first: a latent without a match shares no tokens with its candidate, and would else count as
        filtered instead of unmatched.
        """
        i, j = candidates.edges.i, candidates.edges.j
        outcome = np.full(len(i), MATCHED, dtype=np.int8)
        steps = {"candidates": len(i)}

        def drop(fails: BoolArray, status: int, step: str) -> None:
            outcome[(outcome == MATCHED) & fails] = status
            steps[step] = int((outcome == MATCHED).sum())

        drop(candidates.q > self._filters.cut, UNMATCHED, "q")
        if self._filters.concept:
            drop(self.has_stop_token[0][i] | self.has_stop_token[1][j], FILTERED_TOKEN, "stop_token")
            tokens_a, tokens_b = self._tokens
            disjoint = [tokens_a[m].isdisjoint(tokens_b[n]) for m, n in zip(i.tolist(), j.tolist(), strict=True)]
            drop(np.array(disjoint, dtype=bool), FILTERED_TOKEN, "shared_token")
            drop(~(self.rho(i, j, 0) > self._filters.rho_floor), FILTERED_RHO, "rho")
        return outcome, steps


def _representatives(side: stage.Partners, latents: IntArray, of_latents: IntArray) -> IntArray:
    """Representative of each latent, [F]: `of_latents` for `latents`, the latent itself for all others."""
    representative = np.arange(len(side.eligible))
    representative[latents] = of_latents
    return representative


def _statuses(
    side: stage.Partners, representative: IntArray, candidates: Candidates, pair_filter: _PairFilter, which: int
) -> LatentStatuses:
    """Status of each latent of a side by its candidate pair; duplicates share that of their representative.

    A latent that fires on stop tokens is filtered even without a match.
    """
    n, pairs = len(side.eligible), (candidates.edges.i, candidates.edges.j)
    latent, paired_latent = pairs[which], pairs[1 - which]
    status = np.full(n, UNMATCHED, dtype=np.int8)
    partner, q, score = np.full(n, -1, dtype=np.int64), np.full(n, np.nan), np.full(n, np.nan)
    status[latent] = pair_filter.outcomes(candidates)[0]
    partner[latent], q[latent], score[latent] = paired_latent, candidates.q, candidates.edges.score
    status[(status == UNMATCHED) & pair_filter.has_stop_token[which]] = FILTERED_TOKEN
    status[~side.eligible] = BELOW_MIN_ACTIVE
    status[side.density == 0] = DEAD
    r = representative
    return LatentStatuses(status[r], partner[r], q[r], score[r], representative)


def _pair_columns(
    a: Side, b: Side, slopes: Slopes, geometry: Geometry, matching: Matching, pair_filter: _PairFilter
) -> dict[str, npt.NDArray[Any]]:
    """Columns of the candidate pairs that are computed from weights and codes."""
    i, j = matching.pairs.edges.i, matching.pairs.edges.j
    norm_a, norm_b = _relative_norms(a.W_enc.T)[i], _relative_norms(b.W_enc.T)[j]
    return {
        "a": i,
        "b": j,
        "score": matching.pairs.edges.score,
        "decoy": matching.pairs.decoy,
        "q": matching.pairs.q,
        "cosine": geometry.cosines(i, j),
        "cosine_unrelated": geometry.cosines(i, np.roll(j, len(j) // 2)),
        "distance": geometry.distances(i, j),
        "encoder_cosine": _encoder_cosines(a.W_enc, b.W_enc, slopes.backward, i, j),
        "rho_selected": pair_filter.rho(i, j, 0),
        "rho_held_out": pair_filter.rho(i, j, 1),
        "retention": geometry.retention[i],
        "norm_a": norm_a,
        "norm_b": norm_b,
        "norm_difference": norm_a - norm_b,
        "decoder_norm_difference": _relative_norms(a.W_dec)[i] - _relative_norms(b.W_dec)[j],
    }


def _densities(table: CorrelationTable, i: IntArray, j: IntArray) -> dict[str, DoubleArray]:
    density_a, density_b = table.a.density[i], table.b.density[j]
    return {"density_a": density_a, "density_b": density_b, "density_ratio": density_b / density_a}


def _mean_activations(codes: Features, latents: IntArray) -> DoubleArray:
    """Mean activation of each latent over the rows on which it fires, at least one."""
    firing = np.bincount(codes.csr.indices, minlength=codes.n_features)
    total = np.bincount(codes.csr.indices, weights=codes.csr.data, minlength=codes.n_features)
    mean: DoubleArray = total[latents] / firing[latents]
    return mean


def _relative_norms(rows: npt.NDArray[Any]) -> DoubleArray:
    """Norm of each row over the largest."""
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


def _replicated(matchings: Sequence[Matching], cut: float) -> Int8Array:
    """For each pair of the first half's matching, 1 if it is also a match of the second half's; -1 without a second."""
    edges = matchings[0].pairs.edges
    if len(matchings) == 1:
        return np.full(len(edges.i), -1, dtype=np.int8)
    second = matchings[1].pairs.edges.take(matchings[1].pairs.q <= cut)
    width = 1 + max(int(edges.j.max(initial=0)), int(second.j.max(initial=0)))
    return np.isin(edges.i * width + edges.j, second.i * width + second.j).astype(np.int8)


def _summary(
    pairs: Mapping[str, npt.NDArray[Any]], a: LatentStatuses, b: LatentStatuses, matching: Matching
) -> dict[str, Any]:
    is_matched = pairs["outcome"] == MATCHED
    difference = np.abs(pairs["norm_difference"][is_matched])
    norm_difference_abs = (
        {"mean": difference.mean(), "max": difference.max(), "min": difference.min()} if is_matched.any() else {}
    )
    return {
        "matched": int(is_matched.sum()),
        "norm_difference_abs": norm_difference_abs,
        "rho_held_out_mean": pairs["rho_held_out"][is_matched].mean() if is_matched.any() else None,
        "replicated_share": pairs["replicated"][is_matched].mean() if is_matched.any() else None,
        "status_a": {name: int((a.status == code).sum()) for code, name in enumerate(STATUSES)},
        "status_b": {name: int((b.status == code).sum()) for code, name in enumerate(STATUSES)},
        "twins_a": int((a.representative != np.arange(len(a.status))).sum()),
        "twins_b": int((b.representative != np.arange(len(b.status))).sum()),
        "tau": matching.tau,
        "proof": matching.proof,
        "lowest_q_possible": 1.0 / max(1, len(matching.pairs.q)),
    }
