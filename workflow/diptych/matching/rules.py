"""Matchings of two sets of latents from the scores of their pairs.

Four rules, from each latent's best partner to an exact optimum:

    many_to_one(edges)            # every column with its best row; a row may be in several pairs
    mutual(edges)                 # pairs that are each other's best
    greedy(scores, edges)         # the best pair first, each latent once
    optimal(scores, edges, tau)   # the largest total of max(score - tau, 0), each latent at most once

`optimal` never stores the whole matrix. It solves the assignment problem on a sparse graph of candidates and derives a
price (dual variable) for every latent; if no pair anywhere scores above the sum of its two prices, the solution is
optimal for the whole matrix (linear-programming duality). The scan for candidates has computed every entry: one that
is not listed is no better than the k-th best of its row and of its column. That proves most latents at once; the rows
and columns for which it does not are scored again, pairs above their prices are added to the graph, and it is solved
again.
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
"""A pair violates its prices if it scores higher by more than this, the rounding of float32 scores."""
MAX_ROUNDS = 50
"""Rounds of solving and checking at most; planted and real dictionaries take one to four."""


@dataclass(frozen=True)
class Optimum:
    """A matching of maximum total score, with its proof of optimality.

    Attributes:
        pairs: the matched pairs with their scores.
        total: sum of (score - tau).
        price_rows: float64 [rows], u >= 0; 0 for an unmatched row.
        price_columns: float64 [columns], v >= 0; 0 for an unmatched column. u_i + v_j >= score_ij - tau - `TOLERANCE`
            for every pair of the whole matrix, and sum u + sum v = total.
        gap: sum u + sum v - total, 0 but for rounding.
        rounds: how often the graph was solved and checked.
        checked: entries scored again for the proof, in all rounds; the scan proves the others.
    """

    pairs: Edges
    total: float
    price_rows: DoubleArray
    price_columns: DoubleArray
    gap: float
    rounds: int
    checked: int


def _ranked(edges: Edges, tie: DoubleArray | None, first: IntArray | None = None) -> IntArray:
    """Indices of the edges, sorted by `first`, then higher score, higher tie, lower row, lower column."""
    tie_value = np.zeros(len(edges.i)) if tie is None else np.where(np.isnan(tie), -np.inf, tie)
    keys = [edges.j, edges.i, -tie_value, -edges.score]
    return np.lexsort(tuple(keys if first is None else [*keys, first]))


def _first_of_each(edges: Edges, order: IntArray, owner: IntArray) -> Edges:
    """The first edge of each owner, of edges in `order` (grouped by owner)."""
    _, first = np.unique(owner[order], return_index=True)
    return edges.take(order[first])


def many_to_one(edges: Edges, tie: DoubleArray | None = None) -> Edges:
    """Pairs of each column with its best row.

    Args:
        edges: at least the best entry of each column.
        tie: [e], orders equal scores, higher first and then by lower index; NaN is lowest.
    """
    return _first_of_each(edges, _ranked(edges, tie, edges.j), edges.j)


def one_to_many(edges: Edges, tie: DoubleArray | None = None) -> Edges:
    """Pairs of each row with its best column; arguments as for `many_to_one`."""
    return _first_of_each(edges, _ranked(edges, tie, edges.i), edges.i)


def mutual(edges: Edges, tie: DoubleArray | None = None) -> Edges:
    """Pairs that are each other's best; as `many_to_one`, but `edges` has the best entry of each row too."""
    by_row, by_column = one_to_many(edges, tie), many_to_one(edges, tie)
    width = 1 + int(edges.j.max(initial=0))
    return by_row.take(np.isin(by_row.i * width + by_row.j, by_column.i * width + by_column.j))


def greedy(scores: Scores, edges: Edges, tie: DoubleArray | None = None, *, k: int = 10) -> Edges:
    """Greedy one-to-one matching of the whole matrix: repeatedly the best pair of unmatched latents.

    Latents whose candidates were all matched with others are scanned again among themselves.

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
    """Pairs that are certainly in the greedy matching of the whole matrix, from the k best of each row and column.

    An entry that is not among the k best of its row may be below an unlisted entry of that row. It is not
    matched, and both of its latents stay undecided until they are scanned again.
    """
    order = _ranked(edges, tie)
    is_complete = (_rank_within(edges.i[order]) < k) & (_rank_within(edges.j[order]) < k)
    closed_rows: set[int] = set()
    closed_columns: set[int] = set()
    matched_edges = []
    entries = zip(order.tolist(), edges.i[order].tolist(), edges.j[order].tolist(), is_complete.tolist(), strict=True)
    matched_rows: set[int] = set()
    matched_columns: set[int] = set()
    for edge, i, j, is_certain in entries:
        if i in matched_rows or j in matched_columns:
            continue
        if is_certain and i not in closed_rows and j not in closed_columns:
            matched_rows.add(i)
            matched_columns.add(j)
            matched_edges.append(edge)
        else:
            closed_rows.add(i)
            closed_columns.add(j)
    return edges.take(np.array(matched_edges, dtype=np.int64))


def _rank_within(owner: IntArray) -> IntArray:
    """Number of earlier entries with the same owner, for each entry."""
    order = np.argsort(owner, kind="stable")
    grouped = owner[order]
    rank = np.empty_like(order)
    rank[order] = np.arange(len(owner)) - np.searchsorted(grouped, grouped, side="left")
    return rank


def optimal(scores: Scores, edges: Edges, tau: float, *, k: int = 10) -> Optimum:
    """The matching of maximum total max(score - tau, 0), exact over the whole matrix.

    Args:
        scores: the whole matrix.
        edges: its `candidates(k)`.
        tau: score floor; a pair at or below it is not matched. inf matches none.
        k: that of `candidates`; each round adds at most so many pairs above their prices per row.

    Raises:
        DiptychError: not proven optimal after `MAX_ROUNDS` rounds.
    """
    rows, columns = scores.shape
    if not np.isfinite(tau):
        return Optimum(no_edges(), 0.0, np.zeros(rows), np.zeros(columns), 0.0, 0, 0)
    graph = edges.take(edges.score > tau)
    row_bound, column_bound = _kth_best(edges.i, edges.score, rows, k), _kth_best(edges.j, edges.score, columns, k)
    checked = 0
    for rounds in range(1, MAX_ROUNDS + 1):
        gain = graph.score - tau
        matched = _solve(graph.i, graph.j, gain, scores.shape)
        u, v = _prices(graph.i, graph.j, gain, matched, scores.shape)
        # Prices are >= 0: an entry above their sum is above each of them, and so is its row's and column's bound.
        open_rows = np.flatnonzero(row_bound > u + (tau + TOLERANCE))
        open_columns = np.flatnonzero(column_bound > v + (tau + TOLERANCE))
        checked += len(open_rows) * len(open_columns)
        violating = _above(scores, open_rows, open_columns, u + (tau + TOLERANCE), v, k)
        if not len(violating.i):
            total = float(gain[matched].sum())
            return Optimum(graph.take(matched), total, u, v, float(u.sum() + v.sum()) - total, rounds, checked)
        graph = graph.join(violating)
    raise DiptychError(f"matching: not proven optimal in {MAX_ROUNDS} rounds; raise `candidates` (now {k})")


def _kth_best(owner: IntArray, score: DoubleArray, n: int, k: int) -> DoubleArray:
    """The k-th best listed score of each of n owners, float64 [n]; -inf where fewer (then all) are listed.

    The list must contain every owner's k best; more do not change the result.
    """
    order = np.lexsort((-score, owner))
    rank = np.arange(len(owner)) - np.searchsorted(owner[order], owner[order], side="left")
    bound = np.full(n, -np.inf)
    last = order[rank == k - 1]
    bound[owner[last]] = score[last]
    return bound


def _above(scores: Scores, rows: IntArray, columns: IntArray, u: DoubleArray, v: DoubleArray, k: int) -> Edges:
    """Entries of some rows and columns greater than u_i + v_j, with indices into the whole matrix."""
    if not len(rows) or not len(columns):
        return no_edges()
    is_all = len(rows) == scores.shape[0] and len(columns) == scores.shape[1]
    part = scores if is_all else scores.restrict(rows, columns)
    above = part.above(u[rows], v[columns], k)
    return Edges(rows[above.i], columns[above.j], above.score)


def _solve(i: IntArray, j: IntArray, gain: DoubleArray, shape: tuple[int, int]) -> IntArray:
    """Indices of the edges of the maximum-total-gain matching of a sparse graph; all gains are positive.

    Every row gets a dummy column of gain 0, so that a full matching of the rows always exists; costs are a constant
    minus the gain so that none is zero, which a sparse matrix would drop.
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
    is_real = matched_column < shape[1]
    partner[rows[matched_row[is_real]]] = matched_column[is_real]
    return np.flatnonzero(partner[i] == j)


def _prices(
    i: IntArray, j: IntArray, gain: DoubleArray, matched: IntArray, shape: tuple[int, int]
) -> tuple[DoubleArray, DoubleArray]:
    """The smallest dual prices v of columns, and u of rows, that prove `matched` optimal on the graph.

    Optimality needs u_i + v_j >= gain_ij, with equality for matched pairs. Starting from v = 0, each v_j is raised to
    the largest gain_ij - u_i until all hold (Bellman-Ford along alternating paths); it ends if `matched` is optimal.
    """
    u, v = np.zeros(shape[0]), np.zeros(shape[1])
    if not len(i):
        return u, v
    order = np.argsort(j, kind="stable")
    columns, start = np.unique(j[order], return_index=True)
    matched_rows, matched_columns, matched_gain = i[matched], j[matched], gain[matched]
    for _ in range(shape[0] + shape[1] + 1):
        u[matched_rows] = matched_gain - v[matched_columns]
        demand = np.maximum.reduceat((gain - u[i])[order], start)
        rise = demand - v[columns]
        if rise.max() <= 1e-12:
            return np.maximum(u, 0.0), v
        v[columns] = np.maximum(v[columns], demand)
    raise DiptychError("matching: the solver's answer is not optimal on its own graph; scores must be finite numbers")
