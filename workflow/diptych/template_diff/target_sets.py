"""Latents that fire on target prompts and never on control prompts (METHODS 4).

Two sets of prompts that differ in one respect, such as questions about two centuries, are read by both models. A latent
that fires on many targets and on no control separates them; the table also has the other model's counts:

    columns = exclusive(codes, prompt_set(codes, ["old"]), prompt_set(codes, ["modern"]))
    columns["latent"], columns["n_target"], columns["n_target_other"]
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse, stats

from diptych.runtime.errors import DiptychError
from diptych.statistics import resampling
from diptych.template_diff.changes import describe
from diptych.template_diff.codes import Codes

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

TABLE_COLUMNS = (
    "rank", "side", "role", "latent", "n_target", "n_control", "mean_target",
    "n_target_other", "n_control_other", "p", "q", "domain_shift", "link", "model", "sae",
)  # fmt: skip
"""Columns of the written table; `exclusive` computes all but the last four."""


def prompt_set(codes: Codes, sources: Sequence[str]) -> BoolArray:
    """Prompts of the named sources, bool [n]."""
    unknown = [name for name in sources if name not in codes.sources]
    if unknown:
        raise DiptychError(f"template diff: no source {unknown[0]!r}; the corpus has {', '.join(codes.sources)}")
    in_set = np.isin(codes.source, [codes.sources.index(name) for name in sources])
    if not in_set.any():
        raise DiptychError(f"template diff: no prompt of the sources {list(sources)}; name targets and controls both")
    return in_set


def exclusive(codes: Codes, target: BoolArray, control: BoolArray, *, min_share: float = 0.01) -> dict[str, Any]:
    """Latents active on target prompts and never on control prompts, per model and role.

    p is Fisher's exact test, one-sided, of all k prompts on which the latent fires being targets:
    C(n_target, k) / C(n_target + n_control, k). The family of q are the latents that fire in that model on at least
    `min_share` of targets and controls together, over roles and both models.

    Args:
        codes: both models at every role.
        target: bool [n].
        control: bool [n], disjoint from `target`.
        min_share: of the prompts of both sets together.

    Returns:
        Columns side ("a" | "b"), role, latent, n_target, n_control (0), mean_target (over all targets),
        n_target_other and n_control_other (the other model's counts), p, q, rank; most targets first, then higher mean.
    """
    sides = [(model, role) for model in ("a", "b") for role in codes.roles]
    counts = {side: _set_counts(_codes_of(codes, *side), target, control) for side in sides}
    parts, family = [], []
    for model, role in sides:
        n_target, n_control, mean = counts[model, role]
        is_tested = n_target + n_control >= max(1.0, np.ceil(min_share * (target.sum() + control.sum()) - 1e-9))
        p = _fisher(n_target[is_tested], n_control[is_tested], int(target.sum()), int(control.sum()))
        family.append(p)
        latent = np.flatnonzero(is_tested)
        other = counts["b" if model == "a" else "a", role]
        parts.append({
            "side": np.full(len(latent), model, dtype=object), "role": np.full(len(latent), role, dtype=object),
            "latent": latent, "n_target": n_target[latent], "n_control": n_control[latent],
            "mean_target": mean[latent], "n_target_other": other[0][latent], "n_control_other": other[1][latent],
        })  # fmt: skip
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    columns["p"] = np.concatenate(family)
    columns["q"] = resampling.benjamini_hochberg(columns["p"])
    order = np.lexsort((columns["latent"], -columns["mean_target"], -columns["n_target"]))
    order = order[columns["n_control"][order] == 0]
    return {name: values[order] for name, values in columns.items()} | {"rank": np.arange(1, len(order) + 1)}


def _codes_of(codes: Codes, model: str, role: str) -> sparse.csr_array:
    return (codes.a if model == "a" else codes.b)[role]


def _set_counts(
    codes: sparse.csr_array, target: BoolArray, control: BoolArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Numbers of targets and of controls on which each latent fires, and its mean over targets, [F] each."""
    on_target, on_control = describe(codes[target]), describe(codes[control])
    return (
        on_target["num_active"].astype(np.int64),
        on_control["num_active"].astype(np.int64),
        on_target["all_mean"],
    )


def _fisher(n_target: IntArray, n_control: IntArray, targets: int, controls: int) -> FloatArray:
    """P(at least n_target of the n_target + n_control firing prompts are targets), hypergeometric."""
    p = stats.hypergeom.sf(n_target - 1, targets + controls, targets, n_target + n_control)
    return np.clip(np.asarray(p, dtype=np.float64), resampling.SMALLEST_P, 1.0)
