"""Who belongs to whom: matchings of two sets of latents from the scores of pairs.

Between the simple "each takes its best" and an exact optimum:

    many_to_one(edges)            # every column takes its best row, rows may serve several
    mutual(edges)                 # pairs that are each other's best
    greedy(scores, edges)         # the best pair first, each latent once
    optimal(scores, edges, tau)   # the largest total of max(score - tau, 0), each latent at most once

`optimal` never sees the whole matrix. It solves the problem on a sparse graph of candidates and derives a price for
every latent; if no pair anywhere scores above the sum of its two prices, the solution is optimal for the whole
matrix (linear-programming duality). The scan that found the candidates has seen every entry: one that is not listed
is no better than the k-th best of its row and of its column. That proves most latents at once; the rows and columns
for which it does not are scored again, and pairs that break their prices join the graph, which is solved again.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from diptych.matching.scores import Edges, Scores, no_edges
from diptych.runtime.errors import DiptychError

BoolArray = npt.NDArray[np.bool_]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

TOLERANCE = 1e-6
"""A pair breaks its prices if it scores higher by more than this: the rounding of float32 scores."""
MOST_ROUNDS = 50
"""Rounds of solving and checking; planted and real dictionaries take one to four."""


@dataclass(frozen=True)
class Optimum:
    """A matching of greatest total with its proof.

    Attributes:
        pairs: the matched pairs with their scores.
        total: sum of (score - tau).
        price_rows: float64 [rows], u >= 0; 0 for an unmatched row.
        price_columns: float64 [columns], v >= 0; 0 for an unmatched column. u_i + v_j >= score_ij - tau - `TOLERANCE`
            for every pair of the whole matrix, and sum u + sum v = total.
        gap: sum u + sum v - total, 0 but for rounding.
        rounds: times it was solved and checked.
        checked: entries that had to be scored again for the proof, all rounds; the others are proven by the scan.
    """

    pairs: Edges
    total: float
    price_rows: DoubleArray
    price_columns: DoubleArray
    gap: float
    rounds: int
    checked: int


def _by_rank(edges: Edges, tie: DoubleArray | None, first: IntArray | None = None) -> IntArray:
    """Order of the edges: by `first`, then best score, then higher tie, then lower row, then lower column."""
    higher = np.zeros(len(edges.i)) if tie is None else np.where(np.isnan(tie), -np.inf, tie)
    keys = [edges.j, edges.i, -higher, -edges.score]
    return np.lexsort(tuple(keys if first is None else [*keys, first]))


def _firsts(edges: Edges, order: IntArray, owner: IntArray) -> Edges:
    """Of edges in `order` (grouped by owner), the first of each owner."""
    _, first = np.unique(owner[order], return_index=True)
    return edges.take(order[first])


def many_to_one(edges: Edges, tie: DoubleArray | None = None) -> Edges:
    """Each column with its best row.

    Args:
        edges: at least the best entry of each column.
        tie: [e], which of two equal scores is better (higher; then the lower index); NaN is lowest.
    """
    return _firsts(edges, _by_rank(edges, tie, edges.j), edges.j)


def one_to_many(edges: Edges, tie: DoubleArray | None = None) -> Edges:
    """Each row with its best column; as `many_to_one`."""
    return _firsts(edges, _by_rank(edges, tie, edges.i), edges.i)


def mutual(edges: Edges, tie: DoubleArray | None = None) -> Edges:
    """Pairs that are each other's best; as `many_to_one`, with the best entry of each row too."""
    by_row, by_column = one_to_many(edges, tie), many_to_one(edges, tie)
    width = 1 + int(edges.j.max(initial=0))
    return by_row.take(np.isin(by_row.i * width + by_row.j, by_column.i * width + by_column.j))


def greedy(scores: Scores, edges: Edges, tie: DoubleArray | None = None, *, k: int = 10) -> Edges:
    """The best pair of all first, then the best of the latents left, over the whole matrix.

    Latents that have lost their candidates to others are scanned again among themselves.

    Args:
        scores: the whole matrix.
        edges: its `candidates(k)`.
        tie: as for `many_to_one`; in later scans equal scores go to the lower index.
        k: candidates of each scan.
    """
    pairs = _greedy_pairs(edges, tie, k)
    while True:
        rows = np.setdiff1d(np.arange(scores.shape[0]), pairs.i)
        columns = np.setdiff1d(np.arange(scores.shape[1]), pairs.j)
        if not len(rows) or not len(columns):
            break
        more = _greedy_pairs(scores.restrict(rows, columns).candidates(k), None, k)
        if not len(more.i):
            break
        pairs = pairs.join(Edges(rows[more.i], columns[more.j], more.score))
    return pairs.take(np.argsort(pairs.i))


def _greedy_pairs(edges: Edges, tie: DoubleArray | None, k: int) -> Edges:
    """The pairs that greedy matching of the whole matrix is sure to hold, from the k best of each row and column.

    An entry that is not among the k best of its row may be beaten by one of that row's that is not listed. It is
    not taken, and neither of its latents is decided until they are scanned again.
    """
    order = _by_rank(edges, tie)
    known = (_rank_within(edges.i[order]) < k) & (_rank_within(edges.j[order]) < k)
    closed_rows: set[int] = set()
    closed_columns: set[int] = set()
    pair_edges = []
    entries = zip(order.tolist(), edges.i[order].tolist(), edges.j[order].tolist(), known.tolist(), strict=True)
    matched_rows: set[int] = set()
    matched_columns: set[int] = set()
    for at, i, j, sure in entries:
        if i in matched_rows or j in matched_columns:
            continue
        if sure and i not in closed_rows and j not in closed_columns:
            matched_rows.add(i)
            matched_columns.add(j)
            pair_edges.append(at)
        else:
            closed_rows.add(i)
            closed_columns.add(j)
    return edges.take(np.array(pair_edges, dtype=np.int64))


def _rank_within(owner: IntArray) -> IntArray:
    """For each entry of a list, how many earlier ones have the same owner."""
    order = np.argsort(owner, kind="stable")
    grouped = owner[order]
    rank = np.empty_like(order)
    rank[order] = np.arange(len(owner)) - np.searchsorted(grouped, grouped, side="left")
    return rank


def optimal(scores: Scores, edges: Edges, tau: float, *, k: int = 10) -> Optimum:
    """The matching with the greatest total of max(score - tau, 0), exact over the whole matrix.

    Args:
        scores: the whole matrix.
        edges: its `candidates(k)`.
        tau: floor: a pair at or below it is worth nothing, and its latents stay unmatched. inf matches none.
        k: that of `candidates`; of the pairs that break their prices at most so many of each row join at a time.

    Raises:
        DiptychError: not proven optimal after `MOST_ROUNDS` rounds.
    """
    rows, columns = scores.shape
    if not np.isfinite(tau):
        return Optimum(no_edges(), 0.0, np.zeros(rows), np.zeros(columns), 0.0, 0, 0)
    graph = edges.take(edges.score > tau)
    row_bound, column_bound = _kth_best(edges.i, edges.score, rows, k), _kth_best(edges.j, edges.score, columns, k)
    checked = 0
    for rounds in range(1, MOST_ROUNDS + 1):
        gain = graph.score - tau
        matched = _solve(graph.i, graph.j, gain, scores.shape)
        u, v = _prices(graph.i, graph.j, gain, matched, scores.shape)
        # An entry above its prices (none is negative) is above each of them, and so is a bound on it.
        open_rows = np.flatnonzero(row_bound > u + (tau + TOLERANCE))
        open_columns = np.flatnonzero(column_bound > v + (tau + TOLERANCE))
        checked += len(open_rows) * len(open_columns)
        broken = _above(scores, open_rows, open_columns, u + (tau + TOLERANCE), v, k)
        if not len(broken.i):
            total = float(gain[matched].sum())
            return Optimum(graph.take(matched), total, u, v, float(u.sum() + v.sum()) - total, rounds, checked)
        graph = graph.join(broken)
    raise DiptychError(f"matching: not proven optimal in {MOST_ROUNDS} rounds; raise `candidates` (now {k})")


def _kth_best(owner: IntArray, score: DoubleArray, n: int, k: int) -> DoubleArray:
    """The k-th best listed score of each of n owners, float64 [n]; -inf where fewer are listed: then all are.

    A list that holds every owner's k best, and perhaps more, has the k-th best of all there are.
    """
    order = np.lexsort((-score, owner))
    rank = np.arange(len(owner)) - np.searchsorted(owner[order], owner[order], side="left")
    bound = np.full(n, -np.inf)
    last = order[rank == k - 1]
    bound[owner[last]] = score[last]
    return bound


def _above(scores: Scores, rows: IntArray, columns: IntArray, u: DoubleArray, v: DoubleArray, k: int) -> Edges:
    """Entries of some rows and columns greater than u_i + v_j, in the whole matrix's numbering."""
    if not len(rows) or not len(columns):
        return no_edges()
    is_all = len(rows) == scores.shape[0] and len(columns) == scores.shape[1]
    part = scores if is_all else scores.restrict(rows, columns)
    above = part.above(u[rows], v[columns], k)
    return Edges(rows[above.i], columns[above.j], above.score)


def _solve(i: IntArray, j: IntArray, gain: DoubleArray, shape: tuple[int, int]) -> IntArray:
    """Edges (indices) of the matching of greatest total gain in a sparse graph; all gains are positive.

    Every row gets a place of its own that is worth nothing, so that a full matching of the rows always exists;
    costs are counted down from a constant so that none is zero, which a sparse matrix would drop.
    """
    if not len(i):
        return np.zeros(0, dtype=np.int64)
    rows, row = np.unique(i, return_inverse=True)
    top = float(gain.max()) + 1.0
    cost = np.concatenate([top - gain, np.full(len(rows), top)])
    at_row = np.concatenate([row, np.arange(len(rows))])
    at_column = np.concatenate([j, shape[1] + np.arange(len(rows))])
    graph = sparse.csr_array((cost, (at_row, at_column)), shape=(len(rows), shape[1] + len(rows)))
    matched_row, matched_column = csgraph.min_weight_full_bipartite_matching(graph)
    partner = np.full(shape[0], -1, dtype=np.int64)
    real = matched_column < shape[1]
    partner[rows[matched_row[real]]] = matched_column[real]
    return np.flatnonzero(partner[i] == j)


def _prices(
    i: IntArray, j: IntArray, gain: DoubleArray, matched: IntArray, shape: tuple[int, int]
) -> tuple[DoubleArray, DoubleArray]:
    """The least column prices v, with their row prices u, that prove `matched` optimal on the graph.

    A row matched with surplus u_i = gain - v would rather move to column j unless v_j >= gain_ij - u_i; the prices
    rise along such alternating paths until nobody would move. An optimal matching has no path that goes on.
    """
    u, v = np.zeros(shape[0]), np.zeros(shape[1])
    if not len(i):
        return u, v
    order = np.argsort(j, kind="stable")
    columns, start = np.unique(j[order], return_index=True)
    matched_rows, matched_columns, worth = i[matched], j[matched], gain[matched]
    for _ in range(shape[0] + shape[1] + 1):
        u[matched_rows] = worth - v[matched_columns]
        demand = np.maximum.reduceat((gain - u[i])[order], start)
        rise = demand - v[columns]
        if rise.max() <= 1e-12:
            return np.maximum(u, 0.0), v
        v[columns] = np.maximum(v[columns], demand)
    raise DiptychError("matching: the solver's answer is not optimal on its own graph; scores must be finite numbers")
