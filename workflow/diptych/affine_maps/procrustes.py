"""Rotations between two activation spaces from second moments: polar factors and Procrustes slopes (METHODS 2).

slope = procrustes(m)                     # rotation times scale, as one slope [d_A, d_B]
q, values, right = polar_decomposition(m.C_AB)
"""

import numpy as np

from diptych.affine_maps import matrices, moments
from diptych.affine_maps.affine import RESOLUTION
from diptych.affine_maps.matrices import Matrix

ITERATION_LIMITS = (40, 2000)
"""Smallest and largest limit on the number of Procrustes iterations."""
ITERATION_WORK = 1e10
"""Multiplications, d_A d_B^2 per iteration, that set the limit. Well-conditioned spaces need tens of iterations; where
one direction has most of the variance (Gemma-3 to SmolLM2: 44 %) each improves little: after 47, R^2 is .02 below the
optimum."""
SPAN_PENALTY = 1e-6
"""Ridge penalty, in mean eigenvalues of C_AA, of the regression whose column space gives one initial value."""
LEAST_SQUARE = 1e-12
"""Squared ratio to the largest singular value down to which one is computed from M^T M: its rounding turns the polar
factor only along directions with a millionth of the largest singular value."""
ORTHONORMAL = 1e-12
"""Largest |Q^T Q - I| of a polar factor."""
CORRECTIONS = 5
"""Newton-Schulz steps at most; each squares |Q^T Q - I|, which is at most 1e-3 before the first."""


def procrustes(m: moments.Moments, tolerance: float = RESOLUTION, polar: Matrix | None = None) -> Matrix:
    """Least-squares slope s Q [d_A, d_B] with Q semi-orthogonal (METHODS 2).

    For d_A <= d_B, Q is the polar factor of C_AB. For d_A > d_B the error also depends on which d_B directions of A
    are mapped. From the better of two initial values, polar(C_AB) and the best Q in the column space of the regression
    slope, iterates Q <- polar(C_AB / s - C_AA Q + l_max(C_AA) Q), which never raises the error, with Nesterov
    extrapolation and restart, until R^2 improves by less than `tolerance` or the limit set by `ITERATION_LIMITS` and
    `ITERATION_WORK` is reached.

    Args:
        m: moments of the training rows.
        tolerance: on R^2.
        polar: polar factor of C_AB, if already computed.
    """
    q = polar_factor(m.C_AB) if polar is None else polar
    s = _scale(q, m)
    if m.C_AB.shape[0] <= m.C_AB.shape[1] or s == 0.0:
        return s * q
    q = max(
        (q, _best_in_column_space(m)),
        key=lambda initial: _scale(initial, m) * float((initial * m.C_AB).sum()),
    )
    s = _scale(q, m)
    largest = float(matrices.eigvalsh(m.C_AA)[-1])
    total = matrices.trace(m.C_BB)
    explained = s * float((q * m.C_AB).sum())
    extrapolated, previous, momentum = q, q, 1.0
    max_iterations = int(np.clip(ITERATION_WORK / (q.shape[0] * q.shape[1] ** 2), *ITERATION_LIMITS))
    for _ in range(max_iterations):
        new = _polar_of_full_rank(m.C_AB / s - m.C_AA @ extrapolated + largest * extrapolated)
        new_s = _scale(new, m)
        new_explained = new_s * float((new * m.C_AB).sum())
        if new_explained < explained and momentum > 1.0:
            extrapolated, momentum = q, 1.0
            continue
        previous, q, s = q, new, new_s
        if new_explained - explained < tolerance * total:
            break
        next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        extrapolated = q + ((momentum - 1) / next_momentum) * (q - previous)
        explained, momentum = new_explained, next_momentum
    return s * polar_factor(q)


def _best_in_column_space(m: moments.Moments) -> Matrix:
    """Best semi-orthogonal Q [d_A, d_B] in the column space of the regression slope from A to B.

    There the problem is square and the polar factor exact, so Q is optimal where B is a rotation of d_B directions
    of A.
    """
    penalty = SPAN_PENALTY * matrices.trace(m.C_AA) / len(m.C_AA)
    factor = matrices.cholesky(matrices.add_to_diagonal(m.C_AA, penalty))
    whitened = matrices.solve_triangular(factor, m.C_AB)
    basis = matrices.orthonormal(matrices.solve_triangular(factor, whitened, transposed=True))
    return basis @ polar_factor(basis.T @ m.C_AB)


def _polar_of_full_rank(matrix: Matrix) -> Matrix:
    """Polar factor M (M^T M)^-1/2 of a well-conditioned tall matrix.

    The matrix of a Procrustes iteration is near l_max Q, so squaring its singular values loses no relevant precision.
    """
    values, vectors = matrices.eigh(matrix.T @ matrix)
    return matrix @ ((vectors / values.clip(min=np.finfo(np.float64).tiny) ** 0.5) @ vectors.T)


def polar_factor(matrix: Matrix) -> Matrix:
    """Polar factor U V^T of the matrix's singular value decomposition; that of the transpose is its transpose."""
    if matrix.shape[0] < matrix.shape[1]:
        return polar_decomposition(matrix.T)[0].T
    return polar_decomposition(matrix)[0]


def polar_decomposition(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Polar factor Q, singular values s and right singular vectors V of a tall matrix M = Q V diag(s) V^T.

    From the eigenvectors of M^T M, at a third of the cost of a singular value decomposition; only the part of M along
    singular values that M^T M does not resolve (`LEAST_SQUARE`) is decomposed itself.
    """
    squares, right = matrices.eigh(matrix.T @ matrix)
    n_small = int((squares <= LEAST_SQUARE * squares[-1]).sum())
    values = squares[n_small:] ** 0.5
    left = _orthonormalised(matrix @ (right[:, n_small:] / values))
    if n_small:
        complement = matrices.complement(left)
        turn, small, turn_right = matrices.svd(complement.T @ (matrix @ right[:, :n_small]))
        left = matrices.columns(complement @ turn, left)
        right = matrices.columns(right[:, :n_small] @ turn_right.T, right[:, n_small:])
        values = matrices.columns(small, values)
    return left @ right.T, values, right


def _orthonormalised(q: Matrix) -> Matrix:
    """Nearest matrix with orthonormal columns, by Newton-Schulz steps from columns that are so up to rounding."""
    for _ in range(CORRECTIONS):
        error = matrices.add_to_diagonal(q.T @ q, -1.0)
        largest = float(abs(error).max())
        if largest < ORTHONORMAL:
            break
        q = q - q @ error / 2
        if largest**2 < ORTHONORMAL / 10:
            break
    return q


def _scale(q: Matrix, m: moments.Moments) -> float:
    """The least-squares s of s Q: tr(Q^T C_AB) / tr(Q^T C_AA Q)."""
    is_narrowing = q.shape[0] > q.shape[1]  # otherwise Q Q^T = I
    energy = float(matrices.quadratic_forms(m.C_AA, q).sum()) if is_narrowing else matrices.trace(m.C_AA)
    return float((q * m.C_AB).sum()) / energy if energy > 0 else 0.0
