import itertools

import numpy as np
import pytest
from scipy import linalg
from sklearn.linear_model import Ridge

from diptych.activations import rows
from diptych.affine_maps import affine, matrices, moments, procrustes, ridge
from diptych.linear_map import inner_folds, ladder, residuals
from diptych.linear_map import stage as linear_map
from diptych.oracle import planted
from diptych.runtime.errors import DiptychError
from diptych.statistics import resampling
from diptych.storage import artifacts


def random_moments(seed=0, n=300, d_A=6, d_B=6, spread=1.0):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, d_A)) * np.logspace(0, -spread, d_A)) @ rng.normal(size=(d_A, d_A))
    y = x @ rng.normal(size=(d_A, d_B)) + 0.3 * rng.normal(size=(n, d_B)) + 2.0
    pair = rows.in_memory([x.astype(np.float32), y.astype(np.float32)], np.arange(n) // 10)
    return pair, moments.accumulate(pair, shuffled=False)


def climb(pair, **settings):
    steps = ladder.Ladder(moments.accumulate(pair.rows()), **settings)
    rungs = {rung.name: rung for rung in steps.cross_validate()}
    return steps, rungs, steps.best(list(rungs.values()))


def penalty_path(steps, name, held_out, scatter):
    training = steps.folds.training(*held_out)
    basis = ridge.Eigenbasis(training.C_AA)
    path = ridge.RidgePath(basis, basis.cross(training.C_AB), steps.fits.target(name, held_out))
    return path.errors(ladder.ALPHAS, scatter, basis.rotate(scatter))


def centred(pair, training, select):
    x, y = (side.values.astype(np.float64)[select] for side in pair.sides)
    return x - training.mean_A, y - training.mean_B


# --- maps ----------------------------------------------------------------------------------------------------------


def test_held_out_error_equals_direct_evaluation():
    pair, folds = random_moments()
    training = folds.training(2)
    slope = np.random.default_rng(1).normal(size=(6, 6))
    z, y = centred(pair, training, pair.fold == 2)
    found = affine.squared_error(slope, folds.fold(2).about(training))
    np.testing.assert_allclose(found, np.sum((y - z @ slope) ** 2, axis=0), rtol=1e-5)


def test_ridge_equals_a_direct_solve():
    pair, folds = random_moments(spread=0.3)
    m = folds.training(0)
    steps = ladder.Ladder(folds)
    z, y = centred(pair, m, pair.fold != 0)
    penalty = 0.01 * np.trace(m.C_AA) / 6
    direct = Ridge(alpha=penalty, fit_intercept=False, solver="cholesky").fit(z, y).coef_.T
    np.testing.assert_allclose(steps.slope("ridge_zero", ladder.Hyperparameters(0.01, 0), (0,)), direct, atol=1e-5)
    # shrinking to the identity is shrinking what is left after the identity to zero
    left = Ridge(alpha=penalty, fit_intercept=False, solver="cholesky").fit(z, y - z).coef_.T
    np.testing.assert_allclose(steps.slope("ridge", ladder.Hyperparameters(0.01, 0), (0,)), np.eye(6) + left, atol=1e-5)


@pytest.mark.parametrize(("d_A", "d_B"), [(6, 6), (7, 4), (4, 7)])
def test_penalty_path_equals_refitting_each_penalty(d_A, d_B):
    _, folds = random_moments(d_A=d_A, d_B=d_B)
    steps = ladder.Ladder(folds)
    held = folds.fold(1).about(folds.training(0, 1))
    for name in ("ridge", "ridge_zero"):
        path = penalty_path(steps, name, (0, 1), held)
        refitted = [
            affine.squared_error(steps.slope(name, ladder.Hyperparameters(a, 0), (0, 1)), held).sum()
            for a in ladder.ALPHAS
        ]
        np.testing.assert_allclose(path, refitted, rtol=1e-8)


def test_rank_path_equals_refitting_each_rank():
    _, folds = random_moments(d_A=7, d_B=5)
    steps = ladder.Ladder(folds)
    held = folds.fold(1).about(folds.training(0, 1))
    path = steps.fits.ridge("ridge", 1e-3, (0, 1)).rank_errors(held)
    for rank in range(1, 6):
        reduced = steps.slope("reduced_rank", ladder.Hyperparameters(1e-3, rank), (0, 1))
        assert np.linalg.matrix_rank(reduced, tol=1e-9) == rank
        refitted = affine.squared_error(reduced, held).sum()
        assert path[rank - 1] == pytest.approx(refitted, rel=0, abs=affine.RESOLUTION * np.trace(held.BB))


def brute_force_procrustes(m, starts=3, steps=1500):
    """Riemannian gradient descent with a backtracking step from random starts."""
    best, rng = np.inf, np.random.default_rng(0)
    scatter = m.about(m)

    def loss(q):
        return affine.squared_error(procrustes._scale(q, m) * q, scatter).sum()

    for _ in range(starts):
        q, rate = np.linalg.qr(rng.normal(size=m.C_AB.shape))[0], 1.0 / np.trace(m.C_AA)
        for _ in range(steps):
            s = procrustes._scale(q, m)
            gradient = s * m.C_AA @ q * s - s * m.C_AB
            new = linalg.polar(q - rate * gradient)[0]
            if loss(new) < loss(q):
                q, rate = new, rate * 1.2
            elif rate < 1e-12:
                break
            else:
                rate /= 2
        best = min(best, loss(q))
    return best


def test_procrustes_narrowing_equals_brute_force():
    _, folds = random_moments(d_A=5, d_B=3, spread=0.7)
    m = folds.total
    slope = procrustes.procrustes(m, tolerance=1e-9)
    gram = slope.T @ slope
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(3), atol=1e-10)
    found = affine.squared_error(slope, m.about(m)).sum()
    assert found <= brute_force_procrustes(m) * (1 + 1e-5)
    polar = linalg.polar(m.C_AB)[0]
    naive = affine.squared_error(procrustes._scale(polar, m) * polar, m.about(m)).sum()
    assert found < 0.9 * naive


def test_procrustes_widening_equals_brute_force():
    _, folds = random_moments(d_A=3, d_B=5)
    m = folds.total
    slope = procrustes.procrustes(m)
    gram = slope @ slope.T
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(3), atol=1e-10)
    found = affine.squared_error(slope, m.about(m)).sum()
    rng = np.random.default_rng(0)
    for _ in range(50):  # moves along the manifold from the solution never help
        turned = np.linalg.qr(slope.T + 0.02 * np.linalg.norm(slope) * rng.normal(size=(5, 3)))[0].T
        turned *= np.sign(np.sum(turned * slope, axis=1, keepdims=True))
        assert affine.squared_error(procrustes._scale(turned, m) * turned, m.about(m)).sum() >= found


# --- the ladder ------------------------------------------------------------------------------------------------------


def test_rotation_is_recovered():
    pair = planted.make_pair(0, noise=0.0, n_documents=60)
    steps, rungs, best = climb(pair)
    assert best.name == "procrustes"
    assert rungs["procrustes"].pooled == pytest.approx(1.0, abs=1e-6)
    truth = np.linalg.lstsq(pair.directions_A, pair.directions_B, rcond=None)[0]
    np.testing.assert_allclose(steps.slope("procrustes", best.hyperparameters, (0,)), truth, atol=1e-6)
    assert abs(steps.shuffled_r2()) < 0.01
    assert rungs["scale"].pooled < 0.1


def test_identical_is_identity():
    _, rungs, best = climb(planted.identical_pair(0, n_documents=50))
    assert best.name == "identity"
    assert abs(1 - best.pooled) <= 1e-6
    assert abs(1 - best.median_coordinate) <= 1e-6
    assert not any(rung.alpha_at_edge for rung in rungs.values())


def test_scale_low_rank_and_general_maps_get_their_rung():
    rng = np.random.default_rng(0)
    base = planted.make_pair(0, d_A=16, d_B=16, n_features=30, n_documents=100)
    noise = 0.05 * base.x_A.std() * rng.normal(size=base.x_A.shape)

    def best_of(slope):
        pair = rows.in_memory([base.x_A, (base.x_A @ slope + noise).astype(np.float32)], base.document)
        steps = ladder.Ladder(moments.accumulate(pair, shuffled=False))
        return steps.best(steps.cross_validate())

    assert best_of(np.eye(16)).name == "identity"
    assert best_of(1.5 * np.eye(16)).name == "scale"
    low = best_of(rng.normal(size=(16, 4)) @ rng.normal(size=(4, 16)))
    assert (low.name, low.hyperparameters.rank) == ("reduced_rank", 4)
    stretch = np.linalg.qr(rng.normal(size=(16, 16)))[0] * np.linspace(1, 3, 16)
    assert best_of(stretch).name == "ridge"


def test_the_simplest_within_one_error_of_the_paired_difference():
    folds = np.array([0.1, 0.5, 0.9, 0.3])
    better = np.array([[0.0] * 4, [0.05, 0.06, 0.04, 0.05]])
    assert ladder.simplest(folds + better) == 1  # folds differ by .35, the maps by .05 +- .004
    assert ladder.simplest(folds + np.array([[0.0] * 4, [0.05, -0.06, 0.04, -0.01]])) == 0
    assert ladder.simplest(folds + np.array([[0.0] * 4, [1e-7] * 4])) == 0


def test_edge_of_the_grid_is_said():
    _, rungs, _ = climb(planted.make_pair(0, n_documents=50), alphas=(1.0, 10.0))
    assert rungs["ridge_zero"].alpha_at_edge
    assert not climb(planted.make_pair(0, n_documents=50))[1]["ridge"].alpha_at_edge


def test_in_sample_figures_are_those_of_the_training_rows():
    pair, folds = random_moments()
    steps = ladder.Ladder(folds)
    rung = next(rung for rung in steps.cross_validate() if rung.name == "scale")
    training = folds.training(0)
    z, y = centred(pair, training, pair.fold != 0)
    slope = steps.slope("scale", rung.hyperparameters, (0,))
    assert rung.in_sample_mse == pytest.approx(np.mean((z @ slope - y) ** 2), rel=1e-5)
    assert rung.in_sample_frobenius == pytest.approx(np.linalg.norm(z @ slope - y), rel=1e-5)
    assert rung.slope_frobenius == pytest.approx(np.linalg.norm(slope))


def test_too_few_folds_and_constant_rows_are_errors():
    pair = planted.make_pair(0, n_documents=4, d_A=4, d_B=4, n_features=6)
    with pytest.raises(DiptychError, match="needs fold 0 and two others"):
        ladder.Ladder(moments.accumulate(pair.rows(n_folds=2)))
    still = rows.in_memory([pair.x_A, np.ones_like(pair.x_B)], pair.document)
    with pytest.raises(DiptychError, match="of B do not vary"):
        ladder.Ladder(moments.accumulate(still))


TENSORS = "cpu:0"
"""A device whose matrices are torch tensors, as on a GPU: `cpu` has arrays."""


def moved(folds, device):
    """The same moments on a device."""

    def of_fold(m):
        return moments.Moments(m.n, *(matrices.on(device, x) for x in (m.mean_A, m.mean_B, m.C_AA, m.C_AB, m.C_BB)))

    shuffled = tuple(matrices.on(device, C_AB) for C_AB in folds.shuffled)
    return moments.FoldMoments(folds.ids, tuple(map(of_fold, folds.folds)), of_fold(folds.total), shuffled)


def assert_equal_results(result, expected):
    assert result.best.name == expected.best.name
    assert result.shuffled_r2 == pytest.approx(expected.shuffled_r2, rel=1e-8, abs=1e-8)
    assert result.ladder.numerical_rank == expected.ladder.numerical_rank
    for rung, other in zip(result.rungs, expected.rungs, strict=True):
        np.testing.assert_equal(tuple(rung.hyperparameters), tuple(other.hyperparameters))
        np.testing.assert_allclose(rung.r2, other.r2, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(rung.inner_r2, other.inner_r2, rtol=0, atol=affine.RESOLUTION)
        assert rung.in_sample_frobenius == pytest.approx(other.in_sample_frobenius, rel=1e-8)
        slope, same = (r.ladder.slope(rung.name, rung.hyperparameters, (0,)) for r in (result, expected))
        np.testing.assert_allclose(slope, same, rtol=0, atol=1e-8 * np.abs(same).max())
    first, second = (
        residuals.select_directions(r.ladder.folds, residuals.fold_maps(r.ladder, r.best), 3)
        for r in (result, expected)
    )
    largest = second.unexplained_spectrum[0]
    np.testing.assert_allclose(first.unexplained_spectrum, second.unexplained_spectrum, rtol=0, atol=1e-8 * largest)
    np.testing.assert_allclose(np.abs(np.sum(first.patterns * second.patterns, axis=1)), 1.0, atol=1e-6)


@pytest.mark.parametrize(("d_A", "d_B"), [(16, 16), (18, 12), (12, 18)])
def test_tensors_give_the_results_of_arrays(d_A, d_B):
    pair = planted.make_pair(2, d_A=d_A, d_B=d_B, n_features=24, n_documents=60, noise=0.1, labels={"only_B": 1})
    assert_equal_results(*both_devices(pair, TENSORS))


def both_devices(pair, device):
    folds = moments.accumulate(pair.rows())
    return [linear_map.cross_validate(of, "simple", ladder.ALPHAS) for of in (moved(folds, device), folds)]


@pytest.mark.gpu
@pytest.mark.parametrize(("d_A", "d_B"), [(64, 64), (64, 48), (48, 64)])
def test_gpu_equals_cpu(d_A, d_B):
    pair = planted.make_pair(2, d_A=d_A, d_B=d_B, n_features=96, n_documents=80, noise=0.1, labels={"only_B": 1})
    assert_equal_results(*both_devices(pair, "cuda:0"))


def test_fewer_inner_folds_move_the_pooled_r2_by_less_than_1e_4(monkeypatch):
    folds = moments.accumulate(planted.make_pair(0, n_documents=60).rows(), shuffled=False)
    few = ladder.Ladder(folds).cross_validate()
    monkeypatch.setattr(inner_folds, "fold_pairs", lambda ids: list(itertools.combinations(ids, 2)))
    monkeypatch.setattr(inner_folds, "_unpenalised_errors", of_the_test_fold(inner_folds._unpenalised_errors))
    for rung, of_all in zip(few, ladder.Ladder(folds).cross_validate(), strict=True):
        np.testing.assert_equal(tuple(rung.hyperparameters), tuple(of_all.hyperparameters))
        np.testing.assert_array_equal(rung.inner_r2, of_all.inner_r2)
        assert rung.pooled == pytest.approx(of_all.pooled, abs=1e-4)


def of_the_test_fold(unpenalised_errors):
    return lambda fits, held_out: unpenalised_errors(fits, held_out) if inner_folds.TEST_FOLD in held_out else {}


@pytest.mark.parametrize("n", [40, 12])
def test_polar_factor_equals_scipys_also_without_full_rank(n):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 20)) * np.logspace(0, -3, 20), rng.normal(size=(n, 16))
    matrix = x.T @ y
    q, values, right = procrustes.polar_decomposition(matrix)
    np.testing.assert_allclose(q.T @ q, np.eye(16), atol=1e-11)
    np.testing.assert_allclose((q @ right * values) @ right.T, matrix, atol=1e-10 * np.abs(matrix).max())
    np.testing.assert_array_equal(procrustes.polar_factor(matrix.T), procrustes.polar_factor(matrix).T)
    if n > 16:
        np.testing.assert_allclose(q, linalg.polar(matrix)[0], atol=1e-8)


# --- where the map fails ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failed():
    """One feature only in B and one only in A."""
    labels = {"only_B": 1, "only_A": 1}
    return planted.make_pair(5, labels=labels, d_A=20, d_B=20, n_features=20, n_documents=80, tokens_per_document=30)


def fail(pair, direction="forward", count=4, **settings):
    both = pair.rows()
    folds = moments.accumulate(both, shuffled=False)
    if direction == "backward":
        both, folds = linear_map._exchanged(both, "backward"), folds.reversed()
    result = linear_map.cross_validate(folds, "simple", ladder.ALPHAS)
    rotation = linear_map._rotations({"forward": result, "backward": result})["forward"]
    failure = linear_map._accumulator(both, result, rotation, count, 5, seed=0, device="cpu")
    for fold in folds.ids:
        for block in both.blocks(256, select=both.fold == fold):
            failure.add(fold, *block.x, block.row)
    failure.finish()
    return both, result, failure, failure.scores(bootstrap=100, seed=0)


def test_error_scatter_equals_the_rows_own(failed):
    pair, result, failure, _ = fail(failed)
    linear = residuals.fold_maps(result.ladder, result.best)[3]
    mine = pair.fold == 3
    e = pair.sides[1].values[mine] - linear.predict(pair.sides[0].values[mine])
    held = result.ladder.folds.fold(3).about(result.ladder.folds.training(0, 3))
    np.testing.assert_allclose(residuals.error_scatter(linear.slope, held), e.T @ e, atol=1e-3)
    total = np.mean(np.sum((pair.sides[1].values - pair.sides[1].values.mean(0)) ** 2, axis=1))
    np.testing.assert_allclose(failure.energy[mine], np.sum(e**2, axis=1) / total, rtol=0.01)


def test_no_map_and_no_direction_saw_the_test_fold(failed):
    pair, result, _, _ = fail(failed)
    changed = rows.in_memory([side.values.copy() for side in pair.sides], pair.document)
    changed.sides[1].values[pair.fold == 0] *= -3
    steps = ladder.Ladder(moments.accumulate(changed, shuffled=False))
    before = residuals.fold_maps(result.ladder, result.best)
    after = residuals.fold_maps(steps, result.best)
    for fold in (0, 1, 4):
        np.testing.assert_allclose(after[fold].slope, before[fold].slope, atol=1e-4)
    first, second = (residuals.select_directions(folds, before, 2) for folds in (result.ladder.folds, steps.folds))
    np.testing.assert_allclose(second.unexplained_spectrum, first.unexplained_spectrum, atol=1e-4)
    np.testing.assert_allclose(second.pca_spectrum, first.pca_spectrum, atol=1e-4)


@pytest.mark.parametrize(("direction", "side"), [("forward", "B"), ("backward", "A")])
def test_a_planted_direction_is_found_and_significant(failed, direction, side):
    _, _, failure, scores = fail(failed, direction)
    cosine = np.abs(failure.directions.patterns @ failed.truths(side)[0])
    for kind in (0, 1):
        mine = np.flatnonzero(failure.directions.kind == kind)
        assert cosine[mine].max() >= 0.9
        found = mine[np.argmax(cosine[mine])]
        assert scores.p[found] < 0.01
        assert scores.excess[found, 1] > 0.5 * scores.excess[found, 0] > 0
        assert scores.unexplained_bounds[found, 0] < scores.unexplained[found, 1] < scores.unexplained_bounds[found, 1]
    other = planted.average_precision(list(failure.directions.patterns[:4]), [side] * 4, failed, of=(side,))
    assert other >= 0.5


def test_random_directions_have_the_residuals_covariance():
    """Drawn with the variances of the residual along its principal directions, unit length, the same for one seed."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(400, 400)))[0]
    variance = np.zeros(400)
    variance[:20] = 1.0
    drawn = residuals._random_directions(variance, basis, 0)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1.0)
    np.testing.assert_allclose(drawn @ basis[:, 20:], 0.0, atol=1e-9)
    assert np.linalg.matrix_rank(drawn) == 20
    np.testing.assert_array_equal(drawn, residuals._random_directions(variance, basis, 0))
    assert (residuals._random_directions(np.zeros(400), basis, 0) == 0).all()


def test_top_rows_are_where_the_feature_fires(failed):
    pair, _, failure, _ = fail(failed)
    cosine = failure.directions.patterns @ failed.truths("B")[0]
    found = int(np.argmax(np.abs(cosine)))
    top, score = failure.top_rows[found], failure.top_scores[found]
    assert (pair.fold[top[0]] != 0).all()
    assert (pair.fold[top[1]] == 0).all()
    end = 0 if cosine[found] > 0 else 1
    assert (failed.codes_B[top[:, end], failed.features("only_B")[0]] > 0).all()
    assert (score[:, 0] > 0).all()
    assert (score[:, 1] < 0).all()
    assert (np.diff(np.abs(score), axis=-1) <= 0).all()


def test_excess_changes_sign_when_labels_are_swapped(failed):
    """The statistic of a document is exactly minus itself with the two models' aligned rows exchanged."""
    rng = np.random.default_rng(0)
    d, q = 5, np.linalg.qr(rng.normal(size=(5, 5)))[0]
    linear = affine.LinearMap(rng.normal(size=(d, d)), np.zeros(d), np.zeros(d))
    h = rng.normal(size=(3, d))
    found = residuals.Directions(np.zeros(3, np.int8), h, h, np.zeros(d), np.zeros(d), np.zeros((0, d)))
    scorer = residuals._BlockScorer(linear, found, 1.7 * q, "cpu")
    x_A, x_B = (rng.normal(size=(40, d)).astype(np.float32) for _ in range(2))
    straight = scorer.score(x_A, x_B).terms
    swapped = scorer.score((x_B @ q.T / 1.7).astype(np.float32), (1.7 * x_A @ q).astype(np.float32)).terms
    np.testing.assert_allclose(swapped[3], -straight[3], atol=1e-4)
    np.testing.assert_allclose(swapped[2], straight[2], rtol=0, atol=1e-5 * np.abs(straight[2]).max())
    of_tensors = residuals._BlockScorer(linear, found, 1.7 * q, TENSORS).score(x_A, x_B)
    np.testing.assert_allclose(of_tensors.terms, straight, rtol=0, atol=1e-5 * np.abs(straight).max())


def test_surplus_of_a_pattern_is_what_it_shows_of_the_direction_that_b_adds():
    """With B = A + c v and the identity as map: cos^2 of the variance of c."""
    rng = np.random.default_rng(0)
    n, d = 20_000, 6
    v, w = np.eye(d)[:2]
    x_A = rng.normal(size=(n, d)).astype(np.float32)
    x_B = (x_A + 3 * rng.normal(size=(n, 1)) * v).astype(np.float32)
    pair = rows.in_memory([x_A, x_B], np.arange(n) // 20)
    h = np.stack([v, 0.6 * v + 0.8 * w, w])
    found = residuals.Directions(np.zeros(3, np.int8), h, h, np.zeros(d), np.zeros(d), np.zeros((0, d)))
    maps = {k: affine.LinearMap(np.eye(d), np.zeros(d), np.zeros(d)) for k in range(5)}
    failure = residuals.ResidualAccumulator(pair, maps, found, np.eye(d), contexts=2)
    for fold in range(5):
        for block in pair.blocks(4096, select=pair.fold == fold):
            failure.add(fold, *block.x, block.row)
    failure.finish()
    surplus = failure.scores(bootstrap=20, seed=0).surplus
    np.testing.assert_allclose(surplus, [9.0, 9.0 * 0.36, 0.0], atol=0.3)


def test_noise_pairs_have_no_significant_direction_beyond_the_nominal_rate():
    p, excess = [], []
    for seed in range(16):
        pair = planted.noise_pair(
            seed, n_documents=60, tokens_per_document=15, d_A=12, d_B=12, n_features=18, noise=0.3
        )
        scores = fail(pair)[3]
        p.append(scores.p)
        excess.append(scores.excess[:, 1])
    assert np.mean(np.array(p) < 0.05) < 0.12  # 128 p-values, nominal .05
    assert abs(np.mean(excess)) < 0.01


@pytest.mark.parametrize("one_basis", [False, True])
def test_alignment_is_undone_by_the_way_back(failed, one_basis):
    m = moments.accumulate(failed.rows(), shuffled=False).total
    there, back = (residuals.scaled_rotation(x, one_basis=one_basis) for x in (m, m.reversed()))
    np.testing.assert_allclose(there @ back, np.eye(20), atol=1e-8)


@pytest.mark.parametrize(("scale", "used"), [(1.5, 1.5), (0.7, 0.7), (1.05, 1.0)])
def test_in_one_basis_models_are_exchanged_by_a_scale(scale, used):
    rng = np.random.default_rng(0)
    x_A = (rng.normal(size=(4000, 24)) * np.linspace(1, 2, 24)).astype(np.float32)
    x_B = (scale * x_A + 0.01 * rng.normal(size=x_A.shape)).astype(np.float32)
    x_B[:, 2] = rng.normal(size=4000) * 6
    m = moments.accumulate(rows.in_memory([x_A, x_B], np.arange(4000) // 20), shuffled=False).total
    np.testing.assert_allclose(residuals.scaled_rotation(m, one_basis=True), used * np.eye(24), rtol=2e-3, atol=1e-12)


@pytest.mark.parametrize("same_map", [True, False])
def test_whether_models_share_a_basis_is_seen(same_map):
    labels = {"only_A": 3, "only_B": 3, "rotated": (8, (0.2, 1.0)), "rescaled": (8, (0.5, 2.0))}
    pair = planted.make_pair(0, labels=labels, same_map=same_map, n_documents=60, tokens_per_document=20)
    result = linear_map.cross_validate(moments.accumulate(pair.rows(), shuffled=False), "simple", ladder.ALPHAS)
    assert linear_map.shares_basis(result) is same_map


def test_swapped_labels_have_no_more_false_discoveries_than_nominal():
    """Directions of either model alone that are in each half of the time: the models are exchangeable."""
    discoveries = 0
    for seed in range(24):
        pair = planted.make_pair(
            seed, labels={"only_A": 3, "only_B": 3}, same_map=True, d_A=24, d_B=24, n_features=40,
            n_documents=60, tokens_per_document=20,
        )  # fmt: skip
        swapped = planted.swap_labels(pair, seed)
        p = np.concatenate([fail(swapped, direction, count=6)[3].p for direction in ("forward", "backward")])
        discoveries += bool((resampling.benjamini_hochberg(p) <= 0.05).any())
    assert discoveries <= 4  # of 24 at nominal 5 % more than four come in 2 % of the time


# --- the stage -------------------------------------------------------------------------------------------------------


def stage(pair, path, **settings):
    linear_map.fit(pair.rows(), path, spec={"pair": "p"}, directions=4, contexts=3, bootstrap=50, **settings)
    return artifacts.read(path, "linear_map")


def test_stage_on_the_identical_pair(tmp_path):
    with stage(planted.identical_pair(0, n_documents=40), tmp_path / "map.h5") as file:
        verdicts = artifacts.read_json(file, "verdicts")
        for name in affine.DIRECTIONS:
            assert verdicts[name]["best"] == "identity"
            assert abs(1 - verdicts[name]["r2"]) <= 1e-6
            assert verdicts[name]["words"] == []
            assert (file[f"{name}/energy"][:] == 0).all()
            assert len(file[f"{name}/directions/pattern"]) == 0
            np.testing.assert_array_equal(file[f"{name}/best/slope"][:], np.eye(32))


def test_stage_on_unequal_widths(tmp_path):
    pair = planted.make_pair(2, d_A=18, d_B=12, n_features=20, n_documents=60, labels={"only_B": 1})
    with stage(pair, tmp_path / "map.h5") as file:
        table = artifacts.read_table(file, "forward/ladder")
        assert list(table["rung"]) == ["procrustes", "reduced_rank", "ridge", "ridge_zero"]
        assert table["is_best"].sum() == 1
        forward, back = affine.load(file, "forward"), affine.load(file, "backward", "ridge")
        assert (forward.slope.shape, back.slope.shape) == ((18, 12), (12, 18))
        test = pair.rows().fold == 0
        error = np.sum((forward.predict(pair.x_A[test]) - pair.x_B[test]) ** 2)
        total = np.sum((pair.x_B[test] - file["forward/mean_out"][:]) ** 2)
        assert 1 - error / total == pytest.approx(table["r2_test_fold"][table["is_best"]][0], abs=1e-5)
        np.testing.assert_allclose(forward.intercept, file["forward/best/intercept"][:], atol=1e-5)
        assert np.isnan(file["forward/directions/p"][:]).all()
        assert "unequal widths" in file["forward/directions/p"].attrs["nan"]
        assert np.isfinite(file["forward/directions/unexplained_bounds"][:]).all()
        assert file["forward/energy"][:].mean() == pytest.approx(1 - table["r2"][table["is_best"]][0], abs=0.01)
        by_position = artifacts.read_table(file, "forward/energy_by_position")
        assert by_position["rows"].sum() == len(pair.document)


@pytest.mark.parametrize("device", [TENSORS, pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_stage_gives_the_same_on_a_device(tmp_path, failed, device):
    with stage(failed, tmp_path / "a.h5") as of_cpu, stage(failed, tmp_path / "b.h5", device=device) as of_device:
        for name in ("forward", "backward"):
            for values in ("energy", "best/slope", "directions/unexplained", "ladder_r2_by_fold"):
                expected = of_cpu[f"{name}/{values}"][:]
                atol = 1e-4 * np.abs(expected).max()
                np.testing.assert_allclose(of_device[f"{name}/{values}"][:], expected, rtol=0, atol=atol)


def test_stage_gives_the_same_bytes_twice(tmp_path, failed):
    for name in ("one.h5", "two.h5"):
        stage(failed, tmp_path / name).close()
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_few_rows_are_flagged():
    pair = planted.make_pair(0, n_documents=10, tokens_per_document=20)
    result = linear_map.cross_validate(moments.accumulate(pair.rows()), "simple", ladder.ALPHAS)
    verdict = linear_map.summary(result)
    assert verdict["underdetermined"]
    assert "160 training rows are fewer than 10 for each of 32" in verdict["words"][0]
    many = linear_map.cross_validate(moments.accumulate(planted.make_pair(0).rows()), "simple", ladder.ALPHAS)
    assert not linear_map.summary(many)["underdetermined"]


def test_fewer_rows_than_dimensions_are_flagged_and_still_answered():
    """n < d: A's covariance has no full rank, which is said; the best map is one that such few rows can bear."""
    pair = planted.make_pair(0, n_documents=10, tokens_per_document=3, same_map=True, noise=0.1)
    result = linear_map.cross_validate(moments.accumulate(pair.rows()), "simple", ladder.ALPHAS)
    verdict = linear_map.summary(result)
    assert verdict["n_train"] == 24 < result.ladder.d_A == 32
    assert verdict["underdetermined"]
    assert verdict["numerical_rank"] < 24
    assert all(np.isfinite(rung.r2).all() for rung in result.rungs)
    assert result.best.name in ("identity", "scale")


def test_directions_are_found_with_fewer_rows_than_dimensions_and_one_that_dwarfs_the_others():
    """Rounding of the float32 products leaves eigenvalues below 0 that exceed a millionth of the mean variance."""
    rng = np.random.default_rng(0)
    n, d = 200, 256
    shared = rng.normal(size=(n, d)) + 2000 * rng.normal(size=(n, 1)) * rng.normal(size=d)
    sides = [(shared + 0.1 * rng.normal(size=(n, d))).astype(np.float32) for _ in range(2)]
    folds = moments.accumulate(rows.in_memory(sides, np.arange(n) // 4), shuffled=False)
    total = folds.total
    assert np.linalg.eigvalsh(total.C_BB)[0] < -1e-6 * np.trace(total.C_BB) / d
    maps = {fold: affine.LinearMap(np.eye(d), total.mean_A, total.mean_B) for fold in folds.ids}
    directions = residuals.select_directions(folds, maps, 3)
    assert np.isfinite(directions.filters).all()
    assert 0 < directions.unexplained_spectrum[0] < 2


def test_identity_beating_the_textbook_map_is_said():
    pair = planted.make_pair(0, n_documents=12, tokens_per_document=8, same_map=True, noise=0.2)
    verdict = linear_map.summary(linear_map.cross_validate(moments.accumulate(pair.rows()), "simple", ladder.ALPHAS))
    assert verdict["identity_beats_textbook"]
    assert any("identity is better" in sentence for sentence in verdict["words"])


def test_independent_models_have_no_map():
    a, b = (planted.make_pair(seed, n_documents=60) for seed in (0, 1))
    unrelated = rows.in_memory([a.x_A, b.x_B], a.document)
    verdict = linear_map.summary(linear_map.cross_validate(moments.accumulate(unrelated), "zero", ladder.ALPHAS))
    assert verdict["r2"] < 0.01
    assert any("no map" in sentence for sentence in verdict["words"])
