"""Gates: which activation rows are valid, and whether the rows of a site can be compared at all (METHODS 0.1 and 1).

Rows of some tokens say nothing about a difference between models: inserted tokens, a prefix that all documents share,
the first positions, and massive activations, which would dominate every sum of squares (norms in SmolLM2: 24,052 at
position 0, and in a few sequences at position 1, against about 210 elsewhere). They stay in the files; `valid`
excludes them and `cause` says why:

    cause     0 valid, 1 inserted, 2 common_prefix, 3 skip_first, 4 outlier_norm, 5 not_stored

The outlier rule does not apply at named template positions, where the norm is part of what is studied; outliers there
are only counted.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from diptych.activations.sides import Side, StoredSide
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import templates

CAUSES = ("valid", "inserted", "common_prefix", "skip_first", "outlier_norm", "not_stored")
SHOWN_POSITIONS = 32
"""First positions whose norm is listed: massive activations are at the very first ones."""
RANK_ROWS = 50_000
"""Evenly spaced rows from which the rank is computed: many times any width, and seconds of work."""
DUPLICATE_ROWS = 1_000_000
"""Evenly spaced rows searched for duplicates, so that large files are not read completely for this."""
DUPLICATE_SHARE = 0.01
"""Above this share of duplicates a warning is shown (METHODS 0.6)."""
BLOCK = 8_192

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


class TokenRows(NamedTuple):
    """Attributes of each row of a token file that the gates need."""

    token: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    cause: npt.NDArray[np.uint8]
    """Cause code that follows from the token alone; 0 if none does."""
    at_template_position: BoolArray
    """Whether the row is at a named template position, where the outlier rule does not apply."""
    fold: npt.NDArray[np.int32]
    """Fold of the row's document."""


def gate(
    shards: Sequence[str | Path],
    tokens_path: str | Path,
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    outlier_norm: float = 4.0,
) -> None:
    """Write which rows are valid at every site of a group, and the statistics they are judged by (`gate_activations`).

    Args:
        shards: all shards of one model and site group.
        tokens_path: the token file that they were dumped from.
        out: the artifact, kind "gates".
        spec: what the result depends on.
        outlier_norm: rows whose norm is more than this many medians are not valid.

    Raises:
        DiptychError: the shards do not hold every token row once, no row is valid, none of the valid ones is in the
            test fold or none outside it, or all are equal.
    """
    tokens = read_tokens(tokens_path)
    with artifacts.read(shards[0], "activations") as file:
        sites = sorted(file["sites"])
        first = artifacts.read_json(file, "first") if "first" in file.attrs else None
    if first is not None:
        tokens.cause[tokens.position >= first] = CAUSES.index("not_stored")
    statistics: dict[str, dict[str, Any]] = {}
    with artifacts.create(out, "gates", spec) as writer:
        for site in sites:
            norm = _read_norms(shards, site, tokens.cause != CAUSES.index("not_stored"))
            cause = causes(norm, tokens, outlier_norm)
            provenance = shard_provenance(shards, site)
            _require_folds(cause, tokens, f"{tokens_path}: site {site!r}")
            side = StoredSide(shards, site)
            statistics[site] = provenance | _statistics(side, norm, cause, tokens, outlier_norm)
            _require_rank(statistics[site], f"{shards[0]}: site {site!r}")
            statistics[site]["warnings"] = _warnings(statistics[site])
            writer.array(f"sites/{site}/valid", cause == 0)
            writer.array(f"sites/{site}/cause", cause)
            for warning in statistics[site]["warnings"]:
                logs.logger.warning("site %s: %s", site, warning)
        writer.json("gates", statistics)
        writer.json("causes", list(CAUSES))


def read_tokens(path: str | Path) -> TokenRows:
    """Token, position, fold and token-level cause of every row of a token file."""
    with artifacts.read(path, "tokens") as file:
        position = file["position"][:]
        cause = np.zeros(len(position), dtype=np.uint8)
        cause[~file["counts"][:]] = CAUSES.index("skip_first")
        cause[position < int(artifacts.read_json(file, "common_prefix"))] = CAUSES.index("common_prefix")
        cause[file["char_span"][:, 0] < 0] = CAUSES.index("inserted")
        at_template_position = file["role"][:] >= len(templates.ROLES)
        fold = file["documents/fold"][:][file["sequences/document"][:][file["sequence"][:]]]
        return TokenRows(file["token"][:], position, cause, at_template_position, fold)


def causes(norm: FloatArray, tokens: TokenRows, outlier_norm: float) -> npt.NDArray[np.uint8]:
    """Cause code of every row: that of its token, else `outlier_norm` if its norm exceeds the limit.

    The limit is `outlier_norm` times the median norm of the rows whose tokens have no cause.

    Args:
        norm: float32 [n].
        tokens: of the same n rows.
        outlier_norm: in medians.

    Raises:
        DiptychError: every token has a cause.
    """
    counted = tokens.cause == 0
    if not counted.any():
        raise DiptychError("no token counts: all are inserted, in a common prefix or among the first positions")
    cause = tokens.cause.copy()
    outlier = _outliers(norm, counted, outlier_norm)
    cause[counted & outlier & ~tokens.at_template_position] = CAUSES.index("outlier_norm")
    return cause


def _outliers(norm: FloatArray, counted: BoolArray, outlier_norm: float) -> BoolArray:
    return norm > outlier_norm * np.median(norm[counted])


def numerical_rank(side: Side, index: npt.NDArray[np.int64]) -> tuple[int, float, int]:
    """Rank, effective rank and constant columns of the centred rows `index`.

    Singular values count above s_max max(n, d) eps (float32: no stored row is finer). The effective rank is the
    participation ratio (sum of eigenvalues)^2 / sum of their squares.

    Returns:
        (numerical rank, effective rank, number of constant columns).
    """
    pilot = side.take(index[:1]).astype(np.float64)[0]
    total = np.zeros(side.width)
    moment = np.zeros((side.width, side.width))
    for start in range(0, len(index), BLOCK):
        x = side.take(index[start : start + BLOCK]) - pilot
        total += x.sum(axis=0)
        moment += x.T @ x
    C = moment - np.outer(total, total) / len(index)
    eigenvalues = np.clip(np.linalg.eigvalsh(C), 0.0, None)
    tolerance = max(len(index), side.width) * float(np.finfo(np.float32).eps)
    rank = int((eigenvalues > eigenvalues[-1] * tolerance**2).sum())
    scale = float(np.square(eigenvalues).sum())
    effective = float(eigenvalues.sum() ** 2 / scale) if scale > 0 else 0.0
    return rank, effective, int((np.diag(C) <= 1e-12 * max(float(np.diag(C).max()), 1e-300)).sum())


def duplicate_share(side: Side, index: npt.NDArray[np.int64]) -> float:
    """Share of the rows `index` that equal an earlier one exactly (compared by a 64-bit hash)."""
    weights = np.random.default_rng(0).integers(1, 2**63, size=side.width, dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(index), dtype=np.uint64)
    for start in range(0, len(index), BLOCK):
        bits = np.ascontiguousarray(side.take(index[start : start + BLOCK])).view(np.uint32)
        hashes[start : start + len(bits)] = bits.astype(np.uint64) @ weights
    return 1.0 - len(np.unique(hashes)) / len(index)


def _statistics(
    side: Side, norm: FloatArray, cause: npt.NDArray[np.uint8], tokens: TokenRows, outlier_norm: float
) -> dict[str, Any]:
    """Statistics of one site's rows (METHODS 1), as JSON values."""
    valid = np.flatnonzero(cause == 0)
    rank, effective, constant = numerical_rank(side, _spread(valid, RANK_ROWS))
    duplicates = duplicate_share(side, _spread(valid, DUPLICATE_ROWS))
    stored = cause != CAUSES.index("not_stored")
    n_stored = int(stored.sum())
    template_outliers = tokens.at_template_position & _outliers(norm, tokens.cause == 0, outlier_norm)
    return {
        "rows": n_stored,
        "valid_rows": len(valid),
        "width": side.width,
        "rows_per_width": len(valid) / side.width,
        "invalid_share": {
            name: float((cause == code).sum()) / n_stored for code, name in enumerate(CAUSES[:-1]) if code
        },
        "median_norm": float(np.median(norm[valid])),
        "norm_limit": outlier_norm * float(np.median(norm[tokens.cause == 0])),
        "norm_by_position": norm_by_position(norm[stored], tokens.position[stored], np.median),
        "max_norm_by_position": norm_by_position(norm[stored], tokens.position[stored], np.max),
        "template_outliers": int(template_outliers.sum()),
        "numerical_rank": rank,
        "effective_rank": effective,
        "constant_columns": constant,
        "duplicate_share": duplicates,
        "distinct_tokens": len(np.unique(tokens.token[valid])),
    }


def shard_provenance(shards: Sequence[str | Path], site: str) -> dict[str, Any]:
    """Provenance of a site's rows: hook, dtypes and their relative errors, and the number of memory failures."""
    errors: list[dict[str, float]] = []
    sizes, halved = [], 0
    provenance: dict[str, Any] = {}
    for shard, path in enumerate(shards):
        with artifacts.read(path, "activations") as file:
            errors.append(artifacts.read_json(file, "storage_error")[site])
            sizes.append(len(file[f"sites/{site}/norm"]))
            halved += artifacts.read_json(file, "batch")["halved"]
            if shard == 0:
                provenance = {
                    "hook": artifacts.read_json(file, "hooks")[site],
                    "compute_dtype": artifacts.read_json(file, "compute_dtype"),
                    "stored_dtype": str(file[f"sites/{site}/values"].attrs["dtype"]),
                    "compute_error": artifacts.read_json(file, "compute_error").get(site),
                    "compute_unmeasured": artifacts.read_json(file, "compute_unmeasured"),
                }
    mean = float(np.average([error["mean"] for error in errors], weights=sizes))
    return provenance | {
        "storage_error": {"mean": mean, "max": max(error["max"] for error in errors)},
        "batch_halved": halved,
    }


def _require_folds(cause: npt.NDArray[np.uint8], tokens: TokenRows, site: str) -> None:
    """Raise `DiptychError` unless there are valid rows in the test fold and outside it."""
    fold = tokens.fold[cause == 0]
    if not (fold == 0).any() or not (fold != 0).any():
        raise DiptychError(
            f"{site}: {int((fold == 0).sum())} rows count in the test fold and {int((fold != 0).sum())} outside it; "
            "both are needed: use more documents or a larger `tokens`"
        )


def _require_rank(statistics: Mapping[str, Any], site: str) -> None:
    if statistics["numerical_rank"] == 0:
        raise DiptychError(
            f"{site}: all {statistics['valid_rows']} rows are equal; check the model's weights and the site"
        )


def norm_by_position(
    norm: FloatArray, position: npt.NDArray[np.int32], summary: Callable[[FloatArray], Any]
) -> list[float]:
    """A summary of the norms of all rows, valid or not, at each of the first positions."""
    shown = min(SHOWN_POSITIONS, int(position.max()) + 1)
    return [float(summary(norm[position == at])) for at in range(shown)]


def _warnings(statistics: Mapping[str, Any]) -> list[str]:
    n, d, rank = statistics["valid_rows"], statistics["width"], statistics["numerical_rank"]
    warnings = []
    if n < d:
        warnings.append(f"only {n} rows count for {d} dimensions")
    if rank < min(n - 1, d):
        warnings.append(f"numerical rank {rank} of {d}")
    if statistics["constant_columns"]:
        warnings.append(f"{statistics['constant_columns']} constant columns")
    if statistics["batch_halved"]:
        warnings.append(f"memory ran out {statistics['batch_halved']} times and the batch was halved")
    if statistics["duplicate_share"] > DUPLICATE_SHARE:
        warnings.append(f"{statistics['duplicate_share']:.1%} of the rows are duplicates")
    return warnings


def _spread(index: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """At most `limit` of the rows, evenly spaced."""
    if len(index) <= limit:
        return index
    return index[np.linspace(0, len(index) - 1, limit).astype(np.int64)]


def _read_norms(shards: Sequence[str | Path], site: str, stored: BoolArray) -> FloatArray:
    """Norms of all token rows; NaN for those that are not to be stored."""
    norm = np.full(len(stored), np.nan, dtype=np.float32)
    for path in shards:
        with artifacts.read(path, "activations") as file:
            _fill(norm, file, site, path)
    if n_absent := int(np.isnan(norm[stored]).sum()):
        raise DiptychError(f"{shards[0]}: {n_absent} token rows are in no shard; dump all shards")
    return norm


def _fill(norm: FloatArray, file: h5py.File, site: str, path: str | Path) -> None:
    if f"sites/{site}" not in file:
        raise DiptychError(f"{path}: holds no site {site!r}; delete it and dump again")
    start = int(artifacts.read_json(file, "first_row"))
    values = file[f"sites/{site}/norm"][:]
    norm[file["token_row"][:] if "token_row" in file else slice(start, start + len(values))] = values
