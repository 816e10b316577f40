"""Time saved by eligibility, sparsity and bounds in family-wise sign flips over a dictionary.

    python benchmarks/template_diff.py            # flips over 131,072 latents x 3 roles x 1,000 prompts
    python benchmarks/template_diff.py --memory   # peak memory of the whole comparison with 10,000 prompts

The dense computation multiplies every latent's float32 differences with the signs (BLAS) and keeps the maximum. It
would take many minutes, so it is timed on a slice of the latents and of the flips and scaled: both enter linearly. The
same slice is computed by our code, and the maxima must agree. "dense, eligible" applies the eligibility rule to the
dense product too. Times are medians over repeats.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

import numpy as np
from scipy import sparse

from diptych.statistics import max_t
from diptych.template_diff.changes import Changes, _family, _transposed, compare, eligible
from diptych.template_diff.codes import Codes

N_FEATURES, ROLES, PROMPTS, L0 = 131_072, 3, 1_000, 80
FLIPS, REPEATS, SLICE, SLICE_FLIPS, SEED = 10_000, 3, 4_096, 512, 0


def draw_pair(rng: np.random.Generator, n: int) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Codes of n prompts with Zipf densities and L0 about 80; B changes all strengths and a tenth of the firings."""
    density = 1.0 / (np.arange(N_FEATURES) + 20.0)
    density = np.minimum(0.95, density * L0 / density.sum())
    rng.shuffle(density)
    rows, columns = [], []
    for latent in np.flatnonzero(density > 0):
        firing = np.flatnonzero(rng.random(n) < density[latent])
        rows.append(firing)
        columns.append(np.full(len(firing), latent))
    row, column = np.concatenate(rows), np.concatenate(columns)
    strength = rng.gamma(4.0, 0.25, len(row))
    is_moved = rng.random(len(row)) < 0.1
    row_B = np.where(is_moved, rng.integers(0, n, len(row)), row)
    shape = (n, N_FEATURES)
    a = sparse.csr_array(sparse.coo_array((strength, (row, column)), shape=shape), dtype=np.float32)
    strength_B = strength * rng.lognormal(0, 0.3, len(row))
    b = sparse.csr_array(sparse.coo_array((strength_B, (row_B, column)), shape=shape), dtype=np.float32)
    return a, b


def changes_of(a: sparse.csr_array, b: sparse.csr_array, latent: np.ndarray) -> Changes:
    return Changes(latent, _transposed(a, latent), _transposed(b, latent))


def dense_maxima(changes: Changes, signs: np.ndarray) -> np.ndarray:
    """The three metrics of some latents as float32 products; active_mean from the other two sums."""
    d, delta = (changes.h(metric).toarray().astype(np.float32) for metric in ("all_mean", "density"))
    active = changes.h("active_mean").toarray().astype(np.float32)
    norms = [np.sqrt((h.astype(np.float64) ** 2).sum(axis=1)) for h in (d, active, delta)]
    inverse = [np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0).astype(np.float32) for norm in norms]
    fires = changes.a.sign().sum(axis=1) + changes.b.sign().sum(axis=1)
    total = changes.a.sum(axis=1) + changes.b.sum(axis=1)
    pooled = np.divide(total, fires, out=np.zeros_like(total), where=fires > 0).astype(np.float32)
    sum_d, sum_delta = d @ signs, delta @ signs
    maxima = np.abs(sum_d * inverse[0][:, None]).max(axis=0)
    maxima = np.maximum(maxima, np.abs(sum_delta * inverse[2][:, None]).max(axis=0))
    return np.maximum(maxima, np.abs((sum_d - pooled[:, None] * sum_delta) * inverse[1][:, None]).max(axis=0))


def median_seconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def time_flips() -> None:
    rng = np.random.default_rng(SEED)
    pairs = {f"role {role}": draw_pair(rng, PROMPTS) for role in range(ROLES)}
    peak_before = peak_mib()
    changes = {role: changes_of(a, b, eligible(a, b, 0.01)) for role, (a, b) in pairs.items()}
    n_eligible = sum(len(change.latent) for change in changes.values())
    family = _family(changes)
    print(f"L0 {pairs['role 0'][0].nnz / PROMPTS:.0f}, {n_eligible} of {N_FEATURES * ROLES} latents eligible")
    print(f"family: {family.shape[0]} rows, {family.nnz} non-zero differences")
    ours = median_seconds(
        lambda: max_t.null_maxima(
            _family({role: changes_of(a, b, eligible(a, b, 0.01)) for role, (a, b) in pairs.items()}),
            flips=FLIPS,
            seed=SEED,
        )
    )
    print(
        f"ours: {ours:.2f} s for {FLIPS} flips, from codes to maxima; "
        f"peak {peak_mib():.0f} MiB ({peak_before:.0f} loaded)"
    )

    draws = np.random.default_rng(SEED).integers(0, 2, (PROMPTS, max_t.FLIP_BLOCK), dtype=np.int8)
    signs = np.ascontiguousarray(draws[:, :SLICE_FLIPS].astype(np.float32) * 2.0 - 1.0)
    a, b = pairs["role 0"]
    slice_changes = changes_of(a, b, np.arange(SLICE))
    eligible_changes = changes["role 0"]
    dense = (
        median_seconds(lambda: dense_maxima(slice_changes, signs)) * N_FEATURES * ROLES / SLICE * FLIPS / SLICE_FLIPS
    )
    dense_eligible = median_seconds(lambda: dense_maxima(eligible_changes, signs))
    dense_eligible *= n_eligible / len(eligible_changes.latent) * FLIPS / SLICE_FLIPS
    sparse_maxima = max_t.null_maxima(_family({"role 0": eligible_changes}), flips=SLICE_FLIPS, seed=SEED)
    difference = np.abs(sparse_maxima / dense_maxima(eligible_changes, signs) - 1).max()
    print(f"dense, all latents: {dense:.0f} s (scaled) = {dense / ours:.0f} x ours")
    print(f"dense, eligible: {dense_eligible:.1f} s (scaled) = {dense_eligible / ours:.1f} x ours")
    print(f"largest relative difference of the maxima: {difference:.1e}")
    assert difference < 1e-5


def measure_memory() -> None:
    n = 10_000
    rng = np.random.default_rng(SEED)
    a, b = {}, {}
    for role in range(ROLES):
        a[f"role {role}"], b[f"role {role}"] = draw_pair(rng, n)
    codes = Codes(a, b, [str(i) for i in range(n)], *np.zeros((2, n), dtype=np.int64))
    peak_before = peak_mib()
    start = time.perf_counter()
    comparison = compare(codes, flips=1_000)
    seconds = time.perf_counter() - start
    tests = sum(len(test.p) for by_metric in comparison.tests.values() for test in by_metric.values())
    print(f"{n} prompts x {ROLES} roles x {N_FEATURES} latents, L0 {a['role 0'].nnz / n:.0f}: {tests} tests")
    print(f"{seconds:.1f} s with 1,000 flips; peak {peak_mib():.0f} MiB ({peak_before:.0f} after drawing the codes)")
    assert peak_mib() < 2048


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="measure the whole comparison's peak memory instead")
    if parser.parse_args().memory:
        measure_memory()
    else:
        time_flips()
