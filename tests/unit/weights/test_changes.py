"""Sizes, ranks and floors of changes, against closed forms."""

import numpy as np
import pytest
import torch

from diptych.runtime.errors import DiptychError
from diptych.weights import changes

HALF = [torch.bfloat16, torch.float16]


def random_matrix(m, n, seed=0, size=0.02):
    return size * torch.randn((m, n), generator=torch.Generator().manual_seed(seed))


def low_rank(m, n, rank, size, seed=1):
    """A matrix with `rank` singular values from `size` down to half of it."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn((m, rank), generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn((n, rank), generator=generator, dtype=torch.float64)).Q
    return ((left * torch.linspace(size, size / 2, rank, dtype=torch.float64)) @ right.T).float()


def test_a_change_of_known_size():
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    b = torch.tensor([[3.0, 4.0], [0.0, -2.0]])
    change = changes.measure(a, b)
    assert (change.norm_a, change.norm, change.largest, change.relative) == (5.0, 2.0, 2.0, 0.4)
    assert change.cosine == pytest.approx(5 / 29**0.5, rel=1e-12)
    assert change.floor == 5 * 2.0**-24
    assert change.verdict == "changed"
    singular = changes.spectrum(a, b)
    np.testing.assert_allclose(singular.values, [2.0, 0.0], atol=1e-12)
    assert (singular.rank, singular.above_thousandth, singular.stable_rank) == (1, 1, pytest.approx(1.0))


def test_sums_over_many_chunks_are_those_of_float64():
    a, b = random_matrix(700, 900), random_matrix(700, 900, seed=3)
    change = changes.measure(a, b)
    d = b.double() - a.double()
    assert change.entries > 2 * changes.CHUNK
    assert change.norm == pytest.approx(float(d.norm()), rel=1e-6)
    assert change.norm_a == pytest.approx(float(a.double().norm()), rel=1e-6)
    assert change.largest == float((b - a).abs().max())
    cosine = float((a.double() * b.double()).sum() / a.double().norm() / b.double().norm())
    assert change.cosine == pytest.approx(cosine, abs=1e-5)  # block products are float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
def test_equal_tensors_are_equal(dtype):
    a = random_matrix(60, 40).to(dtype)
    change = changes.measure(a, a.clone())
    assert (change.norm, change.relative, change.largest, change.steps, change.verdict) == (0, 0, 0, 0, "equal")
    assert change.cosine == pytest.approx(1.0, abs=1e-12)
    nothing = changes.measure(torch.zeros(5), torch.zeros(5))
    assert (nothing.verdict, nothing.relative) == ("equal", 0.0)
    assert np.isnan(changes.measure(torch.zeros(5), torch.ones(5)).relative)


@pytest.mark.parametrize("dtype", HALF)
def test_a_copy_in_half_precision_is_rounding(dtype):
    a = random_matrix(300, 200) * torch.logspace(-4, 0, 200)  # subnormal numbers of float16 among them
    for pair in ((a, a.to(dtype)), (a.to(dtype), a)):
        change = changes.measure(*pair)
        assert 0.2 * change.floor < change.norm < change.floor
        assert 0 < change.steps <= 0.5
        assert change.verdict == "rounding"
    exact = a.to(dtype)
    assert changes.measure(exact, exact.float()).verdict == "equal"


def test_rounding_twice_and_truncating_are_rounding_too():
    a = random_matrix(300, 200)
    twice = a.to(torch.float16).to(torch.bfloat16)
    truncated = (a.view(torch.int32) & -65536).view(torch.float32)
    assert changes.measure(a, twice).verdict == "rounding"
    assert changes.measure(a, truncated.to(torch.bfloat16)).verdict == "rounding"
    assert changes.measure(a.to(torch.bfloat16), twice).verdict in ("rounding", "equal")


@pytest.mark.parametrize(
    "stored", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.bfloat16,) * 2]
)
def test_a_small_fine_tune_in_half_precision_is_no_rounding(stored):
    """Less than four floors of bfloat16 (1.6 %), and yet no rounding moves small entries so far."""
    a = random_matrix(300, 200)
    a, b = a.to(stored[0]), (a.to(stored[0]).float() + 1e-3 * random_matrix(300, 200, seed=4)).to(stored[1])
    change = changes.measure(a, b)
    assert 0 < change.norm < changes.FLOORS * change.floor
    assert change.verdict == "changed"


def test_float32_below_four_floors_is_rounding():
    a = random_matrix(300, 200)
    near = a.double() * (1 + 1e-7 * torch.randn((300, 200), generator=torch.Generator().manual_seed(0)))
    assert changes.measure(a, near.float()).verdict == "rounding"
    assert changes.measure(a, a * (1 + 1e-6)).verdict == "changed"


@pytest.mark.parametrize(("m", "n"), [(96, 64), (64, 96), (80, 80)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_adapter_shows_its_rank(m, n, dtype):
    """Rounding puts noise on all singular values; it is known, and 16 stand above it."""
    a = random_matrix(m, n, size=1.0).to(dtype)
    b = (a.float() + low_rank(m, n, 16, size=2.0)).to(dtype)
    singular = changes.spectrum(a, b)
    assert singular.rank == 16
    assert len(singular.values) == min(m, n)
    direct = torch.linalg.svdvals(b.double() - a.double()).numpy()
    np.testing.assert_allclose(singular.values, direct, atol=1e-7 * direct[0])
    assert 0 < singular.values[16] < singular.noise < singular.values[15]


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_the_noise_of_rounding_lies_below_its_edge(dtype):
    """Also where rows and columns differ in size, as a model's do."""
    for m, n in ((256, 64), (100, 100)):
        a = random_matrix(m, n, size=1.0).double() * torch.logspace(-2, 0, n)
        a[3] *= 40
        noise = torch.linalg.svdvals(a.to(dtype).double() - a)[0]
        edge = changes.noise_edge(a.to(dtype), changes.bits_of(dtype))
        assert 0.25 * edge < noise < edge
    only_noise = changes.Spectrum(np.array([0.5, 0.4]), noise=1.0)
    assert (only_noise.rank, only_noise.above_thousandth) == (0, 2)


@pytest.mark.parametrize(("m", "n"), [(50, 30), (30, 50)])
def test_the_first_singular_vectors(m, n, monkeypatch):
    monkeypatch.setattr(changes, "GRAM_CHUNK", 7 * 30)
    a = random_matrix(m, n)
    b = a + low_rank(m, n, 3, size=1.0)
    vectors = changes.first_vectors(a, b, 2)
    u, s, vt = np.linalg.svd((b.double() - a.double()).numpy())
    np.testing.assert_allclose(vectors.values, s[:2], rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(vectors.left * u.T[:2], axis=1)), 1, rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(vectors.right * vt[:2], axis=1)), 1, rtol=1e-10)
    again = (vectors.left.T * vectors.values) @ vectors.right
    np.testing.assert_allclose(again, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-10)
    assert (vectors.left.max(axis=1) == np.abs(vectors.left).max(axis=1)).all()


def test_values_that_are_not_finite_are_refused():
    a = random_matrix(4, 4)
    for value in (float("nan"), float("inf")):
        b = a.clone()
        b[1, 2] = value
        with pytest.raises(DiptychError, match=r"model: w: holds a value that is not finite"):
            changes.measure(a, b, "model: w")
        with pytest.raises(DiptychError, match="not finite"):
            changes.measure(b, b)


def test_bits():
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
    assert [changes.bits_of(dtype) for dtype in dtypes] == [53, 24, 11, 8, 4, 3]
    assert changes.coarser(torch.float32, torch.bfloat16) == torch.bfloat16
