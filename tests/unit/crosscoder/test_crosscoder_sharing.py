"""Sharedness, alignment and cosine of shared latents: closed forms, independent decoders, documents as units."""

import numpy as np
import pytest
from scipy import sparse as sp

from diptych.crosscoder.evaluation import sharing


def sharedness(r_B, means, norms=None):
    """Sharedness of latents with this share of B, in samples of the rows."""
    r_MF = np.stack([1 - np.array(r_B), r_B])
    return sharing.sharedness(r_MF, np.atleast_2d(means), r_MF if norms is None else np.array(norms))


@pytest.mark.parametrize("weighting", ["activation", "unweighted", "energy"])
@pytest.mark.parametrize(("r", "entropy"), [(0.5, 1), (0, 0), (1, 0), (0.11, 0.499916)])
def test_one_latent_has_the_binary_entropy_of_its_share(weighting, r, entropy):
    assert sharedness([r], [2.0])[weighting] == pytest.approx([entropy], abs=1e-6)


def test_weights_of_sharedness():
    found = sharedness([0.5, 0.0], [3.0, 1.0], [[1.0, 2.0], [1.0, 0.0]])
    assert found["activation"] == pytest.approx([0.75])
    assert found["unweighted"] == pytest.approx([0.5])
    assert found["energy"] == pytest.approx([18 / 22])


def test_a_latent_that_never_fires_has_no_weight_and_none_at_all_no_sharedness():
    for values in sharedness([0.5, 0.0], [[1.0, 0.0], [0.0, 0.0]]).values():
        assert values[0] == 1
        assert np.isnan(values[1])


def test_cosine_is_of_shared_latents_that_have_one():
    cosine, is_shared = np.array([0.9, 0.5, np.nan, -1.0]), np.array([True, True, True, False])
    means = np.array([[1.0, 3.0, 9.0, 9.0], [1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    found = sharing.shared_cosine(cosine, is_shared, means)
    assert found[:2] == pytest.approx([0.6, 0.9])
    assert np.isnan(found[2])


def test_alignment_of_equal_and_independent_rows():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 200, 10))
    assert sharing.alignment(first, first @ rng.normal(size=(10, 10)))["value"] == pytest.approx(1)
    apart = sharing.alignment(first, second)
    assert apart["null"] == pytest.approx(10 / 199)
    assert apart["value"] == pytest.approx(apart["null"], abs=0.03)
    assert np.isnan(sharing.alignment(first[:30], second[:30])["value"])


def test_independent_rows_of_unequal_widths_are_at_the_level_of_the_wider():
    rng = np.random.default_rng(0)
    scored = [sharing.alignment(rng.normal(size=(200, 8)), rng.normal(size=(200, 24))) for _ in range(100)]
    above = [score["above_null"] for score in scored]
    assert scored[0]["null"] == pytest.approx(24 / 199)
    assert np.mean(above) == pytest.approx(0, abs=4 * np.std(above) / np.sqrt(len(above)))


def test_replicates_resample_documents():
    document = np.repeat([3, 5, 9], [2, 4, 1])
    codes = sp.csr_array(np.array([[1.0, 0], [3, 0], [0, 2], [0, 2], [0, 2], [0, 2], [7, 0]]))
    means = sharing.bootstrap_means(codes, document, n=500, seed=0)
    assert means.shape == (501, 2)
    assert means[0] == pytest.approx([11 / 7, 8 / 7])
    # Of one document alone every replicate that draws it is its mean, and the same replicates draw it anywhere.
    alone = sharing.bootstrap_means(codes[2:6], document[2:6], n=500, seed=0)
    drawn = np.isfinite(alone[:, 1])
    assert 0.5 < drawn.mean() < 0.75  # 1 - 1/e
    assert alone[drawn, 1] == pytest.approx(2.0)
    assert ((means[:, 1] > 0) == drawn).all()
