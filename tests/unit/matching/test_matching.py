import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from diptych.correlation import products
from diptych.matching import rules
from diptych.matching.dense_scores import DenseScores, Kind
from diptych.matching.scores import Edges, SparseScores

DoubleArray = npt.NDArray[np.float64]


def cosines(seed: int, memory: int = 4000) -> tuple[DenseScores, DoubleArray]:
    """A random rectangular score matrix, computed in small blocks, and the same in full."""
    rng = np.random.default_rng(seed)
    n, m, d = int(rng.integers(2, 70)), int(rng.integers(2, 70)), int(rng.integers(2, 12))
    x, y = (torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(s, d))).float(), dim=1) for s in (n, m))
    return DenseScores(x, y, memory=memory), (x @ y.T).double().numpy()


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("k", [1, 4])
def test_optimal_total_is_scipys_and_the_prices_prove_it(seed: int, k: int) -> None:
    scores, full = cosines(seed)
    tau = float(np.random.default_rng(seed).uniform(-0.3, 0.7))
    found = rules.optimal(scores, scores.candidates(k), tau, k=k)
    worth = np.maximum(full - tau, 0.0)
    rows, columns = linear_sum_assignment(-worth)
    assert found.total == pytest.approx(worth[rows, columns].sum(), abs=1e-5)
    assert found.gap == pytest.approx(0.0, abs=1e-9)
    assert found.price_rows.min() >= 0
    assert found.price_columns.min() >= 0
    over = full - tau - found.price_rows[:, None] - found.price_columns[None]
    assert over.max() <= 2 * rules.TOLERANCE
    assert len(np.unique(found.pairs.i)) == len(np.unique(found.pairs.j)) == len(found.pairs.i)
    assert (found.pairs.score > tau).all()


def test_near_copies_are_told_apart_by_distance() -> None:
    """Distances of 1e-4 between vectors of length 30, of which a float32 x^2 + y^2 - 2 x y keeps no digit."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(60, 900))).astype(np.float32)
    y = (x + 3e-6 * rng.normal(size=x.shape)).astype(np.float32)
    y = np.concatenate([y, x[:20] + np.float32(1e-5)])[rng.permutation(80)]
    scores = DenseScores(torch.from_numpy(x), torch.from_numpy(y), "euclidean")
    full = -np.linalg.norm(x[:, None].astype(np.float64) - y[None], axis=2)
    found = rules.optimal(scores, scores.candidates(3), -1.0)
    worth = full + 1.0
    rows, columns = linear_sum_assignment(-worth)
    assert found.total == pytest.approx(worth[rows, columns].sum(), abs=1e-5)


def test_the_scan_proves_what_its_bounds_reach() -> None:
    """Clear matches far above the floor need no second look; contested ones do, and both are proven optimal."""
    rng = np.random.default_rng(0)
    x, noise = (torch.from_numpy(rng.normal(size=(300, 64))).float() for _ in range(2))
    for y, tau, k, some in ((x + 0.1 * noise, 0.6, 3, False), (noise, 0.0, 1, True)):
        unit = [torch.nn.functional.normalize(rows, dim=1) for rows in (x, y)]
        scores, full = DenseScores(*unit), (unit[0] @ unit[1].T).double().numpy()
        found = rules.optimal(scores, scores.candidates(k), tau, k=k)
        assert (found.checked > 0) == some
        assert (full - tau - found.price_rows[:, None] - found.price_columns[None]).max() <= 2 * rules.TOLERANCE
        assert found.gap == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(25))
def test_greedy_is_best_pair_first_over_the_whole_matrix(seed: int) -> None:
    scores, full = cosines(seed)
    left, expected = full.copy(), []
    for _ in range(min(full.shape)):
        i, j = np.unravel_index(int(np.argmax(left)), left.shape)
        expected.append((int(i), int(j)))
        left[i], left[:, j] = -2.0, -2.0
    for k in (1, 5):
        found = rules.greedy(scores, scores.candidates(k), k=k)
        assert sorted(zip(found.i.tolist(), found.j.tolist(), strict=True)) == sorted(expected)


@pytest.mark.parametrize("kind", ["cosine", "euclidean", "mean"])
def test_candidates_are_the_best_of_each_row_and_column(kind: str) -> None:
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.normal(size=(s, 5))).float() for s in (90, 120))
    codes = [sparse.csr_array(np.where(rng.random((300, s)) < 0.1, 1.0, 0.0)) for s in (90, 120)]
    rho = products.Correlations(*(products.standardise(side) for side in codes)) if kind == "mean" else None
    full = (x @ y.T).double().numpy()
    if kind == "euclidean":
        full = -torch.cdist(x, y).double().numpy()
    if kind == "mean":
        full = (full + np.corrcoef(codes[0].toarray().T, codes[1].toarray().T)[:90, 90:]) / 2
    scores = DenseScores(x, y, kind, rho, memory=20_000)
    edges = scores.candidates(2)
    expected = {(i, j) for i in range(90) for j in np.argsort(-full[i])[:2]}
    expected |= {(i, j) for j in range(120) for i in np.argsort(-full[:, j])[:2]}
    assert set(zip(edges.i.tolist(), edges.j.tolist(), strict=True)) == expected
    np.testing.assert_allclose(edges.score, full[edges.i, edges.j], atol=1e-5)
    np.testing.assert_allclose(scores.at(edges.i, edges.j), full[edges.i, edges.j], atol=1e-5)
    high = scores.above(np.full(90, np.quantile(full, 0.99)), np.zeros(120), 120)
    assert len(high.i) == (full > np.quantile(full, 0.99)).sum()


def test_own_scores_leave_out_the_latent_itself() -> None:
    rng = np.random.default_rng(0)
    x = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(50, 5))).float(), dim=1)
    codes = products.standardise(sparse.csr_array(np.where(rng.random((300, 50)) < 0.2, 1.0, 0.0)))
    for scores in (
        DenseScores(x, x, is_within=True, memory=3000),
        SparseScores(products.Correlations(codes, codes), True),
    ):
        edges = scores.candidates(3)
        assert (edges.i != edges.j).all()
        assert np.unique(edges.i).tolist() == list(range(50))


def test_equal_scores_go_to_the_higher_tie_then_the_lower_index() -> None:
    edges = Edges(np.array([2, 0, 1, 3]), np.array([0, 0, 0, 0]), np.array([0.5, 0.5, 0.5, 0.4]))
    assert rules.many_to_one(edges).i.tolist() == [0]
    assert rules.many_to_one(edges, np.array([0.9, np.nan, 0.9, 1.0])).i.tolist() == [1]


def test_forced_pairs_do_not_displace_true_ones() -> None:
    x = torch.eye(3)[:2]
    y = torch.tensor([[0.9, 0.1, 0.0], [0.88, 0.0, 0.0]])
    scores = DenseScores(x, y)
    free = rules.optimal(scores, scores.candidates(2), -1.0)
    assert sorted(zip(free.pairs.i.tolist(), free.pairs.j.tolist(), strict=True)) == [(0, 1), (1, 0)]
    floored = rules.optimal(scores, scores.candidates(2), 0.5)
    assert (floored.pairs.i.tolist(), floored.pairs.j.tolist()) == ([0], [0])
    assert len(rules.optimal(scores, scores.candidates(2), float("inf")).pairs.i) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
def test_gpu_and_cpu_find_the_same_pairs(kind: Kind) -> None:
    x, y = (torch.randn(n, 24, generator=torch.Generator().manual_seed(n)) for n in (300, 280))
    y[:200] += 2 * x[:200]
    if kind == "cosine":
        x, y = (torch.nn.functional.normalize(side, dim=1) for side in (x, y))
    tau = 0.3 if kind == "cosine" else -7.0
    found = []
    for device in ("cpu", "cuda:0"):
        scores = DenseScores(x.to(device), y.to(device), kind, memory=40_000)
        found.append(rules.optimal(scores, scores.candidates(4), tau, k=4))
    cpu, gpu = found
    assert len(cpu.pairs.i) > 150
    assert gpu.total == pytest.approx(cpu.total, rel=1e-5)
    assert dict(zip(gpu.pairs.i, gpu.pairs.j, strict=True)) == dict(zip(cpu.pairs.i, cpu.pairs.j, strict=True))
