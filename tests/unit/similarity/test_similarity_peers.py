"""Every measure of similarity against somebody else's implementation: ckatorch, statsmodels, scikit-learn, scipy."""

import numpy as np
import pytest
import torch
from ckatorch import cka_base
from scipy import linalg, spatial, stats
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors
from statsmodels.multivariate.cancorr import CanCorr

from diptych.similarity.measures import formulas

KINDS = ("identical", "rotated", "scaled", "related", "independent")


def clouds(kind, p=160, d=6):
    """Rows of A and B [p, d] in one of five relations; A is far from the origin and of unequal spread."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(p, d)) * [4.0, 3.0, 2.0, 1.0, 0.5, 0.1] + 2.0
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    related = x @ rng.normal(size=(d, d)) + 2.0 * rng.normal(size=(p, d))
    other = rng.normal(size=(p, d)) * [2.0, 1.0, 1.0, 1.0, 1.0, 0.05]
    y = {"identical": x, "rotated": x @ turn, "scaled": 5.0 * x, "related": related, "independent": other}
    return x, y[kind]


@pytest.fixture(params=KINDS)
def both(request):
    x, y = clouds(request.param)
    return x, y, formulas.space(x), formulas.space(y)


def test_cka(both):
    x, y, a, b = both
    given = torch.from_numpy(x), torch.from_numpy(y)
    assert formulas.cka(a, b) == pytest.approx(float(cka_base(*given, unbiased=False)), abs=1e-10)
    assert formulas.cka_debiased(a, b) == pytest.approx(float(cka_base(*given, unbiased=True)), abs=1e-10)


def test_svcca_and_pwcca(both):
    x, y, a, b = both
    left, right = (PCA(n_components=0.99, svd_solver="full").fit_transform(rows) for rows in (x, y))
    assert (left.shape[1], right.shape[1]) == (a.k, b.k)
    peer = CanCorr(left, right)  # endog, exog
    found = formulas.canonical_scores(a.u.T @ b.u, a, b)
    assert found.svcca == pytest.approx(peer.cancorr.mean(), abs=1e-6)
    assert found.mean_squared_cc == pytest.approx((peer.cancorr**2).mean(), abs=1e-6)
    for score, rows, parts, coefficients in (
        (found.pwcca_a, x, left, peer.y_cancoef), (found.pwcca_b, y, right, peer.x_cancoef),
    ):  # fmt: skip
        variates = parts @ coefficients[:, : len(peer.cancorr)]
        variates /= np.linalg.norm(variates, axis=0)
        weights = np.abs(variates.T @ (rows - rows.mean(axis=0))).sum(axis=1)
        if len(set(np.round(peer.cancorr, 6))) == len(peer.cancorr):  # equal correlations leave the variates free
            assert score == pytest.approx(np.average(peer.cancorr, weights=weights), abs=1e-6)
        else:
            assert score == pytest.approx(peer.cancorr[0], abs=1e-6)


def test_procrustes(both):
    x, y, a, b = both
    left, right = x - x.mean(axis=0), y - y.mean(axis=0)
    _, nuclear = linalg.orthogonal_procrustes(left, right)
    expected = nuclear / np.linalg.norm(left) / np.linalg.norm(right)
    assert formulas.canonical_scores(a.u.T @ b.u, a, b).procrustes == pytest.approx(expected, abs=1e-10)
    assert expected == pytest.approx(np.sqrt(1 - spatial.procrustes(x, y)[2]), abs=1e-7)


def test_rsa(both):
    _, _, a, b = both
    distances = [spatial.distance.pdist(space.x, "cosine") for space in (a, b)]
    expected = stats.spearmanr(*distances).statistic
    assert formulas.rsa(formulas.distance_ranks(a.x), formulas.distance_ranks(b.x)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("k", [4, 10])
def test_neighbours(both, k):
    _, _, a, b = both
    peers = []
    for space in (a, b):
        finder = NearestNeighbors(n_neighbors=k, metric="cosine").fit(space.x)
        peers.append(finder.kneighbors(return_distance=False))  # without the row itself
    shared = np.array([len(set(n) & set(m)) for n, m in zip(*peers, strict=True)])
    found = formulas.common_neighbours(formulas.nearest(a.x, k), formulas.nearest(b.x, k))
    np.testing.assert_array_equal(found, shared)
    assert formulas.knn_jaccard(found, k) == pytest.approx(np.mean(shared / (2 * k - shared)))
    assert formulas.knn_mutual(found, k) == pytest.approx(np.mean(shared / k))


def test_mmcs(both):
    x, y, _, _ = both
    best, level = formulas.mmcs(x, y)
    peer = cosine_similarity(x, y)
    np.testing.assert_allclose(best, peer.max(axis=1), atol=1e-6)
    own = cosine_similarity(y)
    np.fill_diagonal(own, -2.0)
    np.testing.assert_allclose(level, peer[np.arange(len(x)), own.argmax(axis=1)[peer.argmax(axis=1)]], atol=1e-6)
