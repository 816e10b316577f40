"""Stage that diffs features at the template's own tokens: ranked gains and features of a prompt set (METHODS 4).

One dictionary is read on two models at the same named tokens of the same prompts (`codes`), and every latent is
compared (`changes`). This module computes the tables and writes the stage's files:

    codes = at_roles(shards_a, shards_b, tokens, ["assistant", "newline"])
    diff(codes, "template_diff.h5", "gains.csv", "targets.csv", spec={}, fvu_a={"assistant": .21, "newline": .2},
         fvu_b={"assistant": .24, "newline": .5}, model="base--chat", sae="mine", link="https://host/{sae}/{latent}")

A gain can also mean that the dictionary no longer describes one of the models: rows of a role where its FVU differs
too much between the models are marked `domain_shift`.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.statistics import resampling
from diptych.storage import artifacts
from diptych.template_diff import target_sets
from diptych.template_diff.changes import METRICS, Changes, Comparison, compare
from diptych.template_diff.codes import Codes
from diptych.template_diff.planted import Planted

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

CSV_COLUMNS = (
    "rank", "latent", "role", "metric", "a", "b", "gain", "ratio", "p", "q", "p_family", "lo", "hi",
    "n_active_a", "n_active_b", "domain_shift", "link", "model", "sae",
    "direction", "effect", "gain_lo", "gain_hi", "effect_fitted", "effect_held_out",
)  # fmt: skip
"""Columns of the ranked table. lo, hi bound `effect`; gain_lo, gain_hi bound `gain`; ratio = b / a, empty for a = 0;
effect_held_out is the effect on the prompts of fold 0 alone, effect_fitted on all others."""
PROMPTS = 6
"""Prompts stored for each row of the ranked table, for the contexts in the report."""
INTERVAL_BLOCK = 64
"""Latents whose intervals are computed together: 8 sums x 64 x 10,000 prompts are 41 MB."""
UNDEFINED = (
    "a latent that fires on no prompt has no active statistics; ratio needs a > 0; a bound needs finite replicates"
)


def ranked(
    codes: Codes, comparison: Comparison, *, top: int = 100, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The largest gains, `top` up and `top` down per role and metric, with intervals.

    Args:
        codes: both models at every role.
        comparison: of the same codes.
        top: rows per role, metric and direction; gains of 0 and undefined ones are not listed.
        bootstrap: Poisson bootstrap replicates over prompts for the 95 % intervals.
        seed: of the bootstrap.

    Returns:
        Equally long columns: direction, rank, latent, role, metric, a, b, gain, ratio (NaN for a = 0), p, q, p_family,
        effect, lo, hi (of the effect), gain_lo, gain_hi, effect_fitted (folds other than 0), effect_held_out (fold 0;
        NaN without such prompts), n_active_a, n_active_b. Equal gains rank by lower latent.
    """
    blocks = []
    for role in codes.roles:
        selected = {
            (metric, direction): _order(comparison.tests[role][metric].gain * sign)[:top]
            for metric in METRICS
            for direction, sign in (("up", 1.0), ("down", -1.0))
        }
        listed = np.unique(np.concatenate(list(selected.values())))
        bounds = _intervals(comparison.changes[role], listed, codes.fold == 0, bootstrap, seed)
        for (metric, direction), at in selected.items():
            blocks.append(_columns(comparison, role, metric, direction, at) | {
                name: values[np.searchsorted(listed, at)] for name, values in bounds[metric].items()
            })  # fmt: skip
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _order(gain: FloatArray) -> IntArray:
    """Indices of the positive gains, largest first, ties by lower index."""
    order = np.argsort(-gain, kind="stable")
    return order[gain[order] > 0]


def _columns(comparison: Comparison, role: str, metric: str, direction: str, at: IntArray) -> dict[str, Any]:
    """Columns of one role, metric and direction, without the intervals."""
    test, latent = comparison.tests[role][metric], comparison.changes[role].latent[at]
    a, b = comparison.a[role][metric][latent], comparison.b[role][metric][latent]
    return {
        "direction": np.full(len(at), direction, dtype=object),
        "rank": np.arange(1, len(at) + 1),
        "latent": latent,
        "role": np.full(len(at), role, dtype=object),
        "metric": np.full(len(at), metric, dtype=object),
        "a": a,
        "b": b,
        "ratio": np.divide(b, a, out=np.full(len(at), np.nan), where=a > 0),
        "n_active_a": comparison.a[role]["num_active"][latent].astype(np.int64),
        "n_active_b": comparison.b[role]["num_active"][latent].astype(np.int64),
    } | {name: getattr(test, name)[at] for name in ("gain", "p", "q", "p_family", "effect")}


def _intervals(
    changes: Changes, at: IntArray, held_out: BoolArray, n: int, seed: int
) -> dict[str, dict[str, FloatArray]]:
    """lo, hi, gain_lo, gain_hi, effect_fitted, effect_held_out of each metric, [len(at)], for the latents `at`."""
    units = changes.a.shape[1]
    lo, hi, fitted, held_out_values = (np.zeros((len(at), len(METRICS), 2)) for _ in range(4))
    for start in range(0, len(at), INTERVAL_BLOCK):
        rows = slice(start, start + INTERVAL_BLOCK)
        parts = _contributions(changes.a[at[rows]].toarray().T, changes.b[at[rows]].toarray().T)
        lo[rows], hi[rows] = resampling.poisson_bootstrap(
            parts, lambda sums: _effects_and_gains(sums, units), n=n, seed=seed
        )
        fitted[rows] = _effects_of_prompts(parts[~held_out])
        held_out_values[rows] = _effects_of_prompts(parts[held_out])
    bounds = {"lo": lo[..., 0], "hi": hi[..., 0], "gain_lo": lo[..., 1], "gain_hi": hi[..., 1]}
    bounds |= {"effect_fitted": fitted[..., 0], "effect_held_out": held_out_values[..., 0]}
    return {metric: {name: values[:, i] for name, values in bounds.items()} for i, metric in enumerate(METRICS)}


def _effects_of_prompts(parts: FloatArray) -> FloatArray:
    """Effects and gains [k, 3, 2] of the prompts that contribute `parts` [n, k, 8]; NaN for none."""
    if len(parts) == 0:
        return np.full((parts.shape[1], len(METRICS), 2), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _effects_and_gains(parts.sum(axis=0), len(parts))


def _contributions(a: FloatArray, b: FloatArray) -> FloatArray:
    """Each prompt's contributions to the sums behind effects and gains, [n, k, 8], from codes [n, k]."""
    fires_a, fires_b = (a > 0).astype(np.float64), (b > 0).astype(np.float64)
    d, delta = b - a, fires_b - fires_a
    return np.stack([np.ones_like(a), a, b, fires_a, fires_b, d * d, d * delta, delta * delta], axis=-1)


def _effects_and_gains(sums: FloatArray, n: int) -> FloatArray:
    """Effect mean(h)/sd(h) and gain of each metric, [..., 3, 2], from weighted sums [..., 8]."""
    weight, a, b, fires_a, fires_b, dd, d_delta, delta_delta = np.moveaxis(sums, -1, 0)
    pooled = np.nan_to_num((a + b) / (fires_a + fires_b))
    total = {"all_mean": b - a, "density": fires_b - fires_a}
    total["active_mean"] = total["all_mean"] - pooled * total["density"]
    square = {
        "all_mean": dd,
        "density": delta_delta,
        "active_mean": dd - 2 * pooled * d_delta + pooled**2 * delta_delta,
    }
    gain = {m: total[m] / weight for m in ("all_mean", "density")} | {"active_mean": b / fires_b - a / fires_a}
    parts = [
        np.stack([resampling.standardised_mean(total[m] / weight, square[m] / weight, n), gain[m]], axis=-1)
        for m in METRICS
    ]
    return np.stack(parts, axis=-2)


def diff(
    codes: Codes,
    out_h5: str | Path,
    out_gains: str | Path,
    out_targets: str | Path,
    *,
    spec: Mapping[str, Any],
    planted: Planted | None = None,
    fvu_a: Mapping[str, float] | None = None,
    fvu_b: Mapping[str, float] | None = None,
    change_unexplained: Mapping[str, float] | None = None,
    min_share: float = 0.01,
    flips: int = 1000,
    top: int = 100,
    bootstrap: int = 1000,
    seed: int = 0,
    domain_shift: float = 1.5,
    model: str = "",
    sae: str = "",
    link: str = "",
    target: Sequence[str] = (),
    control: Sequence[str] = (),
) -> None:
    """Stage `diff_template_tokens`: compute a template diff (METHODS 4) and write it as HDF5 and CSV.

    Args:
        codes: both models at every role (`codes.read`).
        out_h5: artifact of kind "template_diff".
        out_gains: the ranked table, columns CSV_COLUMNS.
        out_targets: latents of the target prompts alone (`target_sets`); only a header without sets.
        spec: stored with the artifact.
        planted: codes of A and of A with a planted change (`planted`), compared and ranked in the same way.
        fvu_a: role -> the dictionary's FVU on model A at that role; a role without it has an unknown domain shift.
        fvu_b: the same on model B.
        change_unexplained: role -> share of the activations' change that the codes do not explain; only stored.
        min_share: a latent is eligible if it fires in A or B on this share of the prompts.
        flips: sign flips for the family-wise p.
        top: rows per role, metric and direction.
        bootstrap: replicates for the intervals.
        seed: of flips and bootstrap.
        domain_shift: larger FVU over smaller above which a role's rows are marked.
        model: value of the CSV's column `model`, such as the pair's alias.
        sae: value of the CSV's column `sae`.
        link: template with {latent}, {role}, {model}, {sae}; empty for no links.
        target: corpus sources whose prompts are targets.
        control: sources whose prompts are controls.

    Raises:
        DiptychError: there are no prompts, a source is unknown or empty, or `link` has an unknown placeholder.
    """
    if len(codes) == 0 or not codes.roles:
        raise DiptychError("template diff: no prompts or no roles; check the corpus and the template's roles")
    ratio = {role: _fvu_ratio(role, fvu_a or {}, fvu_b or {}) for role in codes.roles}
    labels = _Labels(ratio, domain_shift, model, sae, link)
    comparison = compare(codes, min_share=min_share, flips=flips, seed=seed)
    tables = {"ranked": labels.add(ranked(codes, comparison, top=top, bootstrap=bootstrap, seed=seed), CSV_COLUMNS)}
    sets = {name: np.zeros(0) for name in target_sets.TABLE_COLUMNS}
    if target or control:
        prompt_sets = (target_sets.prompt_set(codes, sources) for sources in (target, control))
        exclusive = target_sets.exclusive(codes, *prompt_sets, min_share=min_share)
        sets = tables["targets"] = labels.add(exclusive, target_sets.TABLE_COLUMNS)
    if planted is not None:
        planted_comparison = compare(planted.codes, min_share=min_share, flips=1, seed=seed)
        tables["planted"] = ranked(planted.codes, planted_comparison, top=top, bootstrap=2, seed=seed)
    summary = _summary(codes, comparison)
    for role in codes.roles:
        summary["roles"][role] |= {
            "fvu_a": (fvu_a or {}).get(role, np.nan),
            "fvu_b": (fvu_b or {}).get(role, np.nan),
            "fvu_ratio": ratio[role],
            "change_unexplained": (change_unexplained or {}).get(role, np.nan),
            "domain_shift": labels.domain_shift(role),
        }
    summary["planted"] = None if planted is None else planted.truth()
    logs.logger.info("%d prompts, %d tests, %d with q <= .05", len(codes), summary["tests"], summary["significant"])
    _write(out_h5, spec, codes, comparison, tables, summary)
    write_csv(out_gains, tables["ranked"])
    write_csv(out_targets, sets)


def write_csv(path: str | Path, columns: Mapping[str, Any]) -> None:
    """Write equally long columns as CSV with a header; NaN is empty, numbers round-trip."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*[np.asarray(values).tolist() for values in columns.values()], strict=True):
        writer.writerow(["" if isinstance(value, float) and np.isnan(value) else value for value in row])
    artifacts.write_text(path, text.getvalue())


class _Labels:
    """Columns domain_shift ("yes" | "no" | "unknown"), link, model and sae of a table."""

    def __init__(self, ratio: Mapping[str, float], limit: float, model: str, sae: str, link: str) -> None:
        self._ratio, self._limit, self._names, self._link = ratio, limit, {"model": model, "sae": sae}, link

    def domain_shift(self, role: str) -> str:
        if np.isnan(self._ratio[role]):
            return "unknown"
        return "yes" if self._ratio[role] > self._limit else "no"

    def link(self, latent: int, role: str) -> str:
        try:
            return self._link.format(latent=latent, role=quote(role, safe=""), **self._names)
        except (KeyError, IndexError, ValueError) as error:
            raise DiptychError(
                f"link: {self._link!r} cannot be filled ({error}); it may use {{latent}}, {{role}}, {{model}}, {{sae}}"
            ) from error

    def add(self, columns: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
        rows = list(zip(columns["latent"].tolist(), columns["role"].tolist(), strict=True))
        labelled = dict(columns) | {
            name: np.full(len(rows), value, dtype=object) for name, value in self._names.items()
        }
        labelled["domain_shift"] = np.array([self.domain_shift(role) for _, role in rows], dtype=object)
        labelled["link"] = np.array([self.link(latent, role) for latent, role in rows], dtype=object)
        return {name: labelled[name] for name in order}


def _fvu_ratio(role: str, fvu_a: Mapping[str, float], fvu_b: Mapping[str, float]) -> float:
    """Larger over smaller FVU of a role, NaN where one is unknown: the same for (A, B) and (B, A)."""
    a, b = fvu_a.get(role, np.nan), fvu_b.get(role, np.nan)
    return max(a, b) / min(a, b) if min(a, b) > 0 else float("nan")


def _summary(codes: Codes, comparison: Comparison) -> dict[str, Any]:
    """Counts of tests, and of all that was omitted, capped or undefined (METHODS 0.6)."""
    tests = [test for by_metric in comparison.tests.values() for test in by_metric.values()]
    bound = np.sqrt(len(codes))
    return {
        "prompts": len(codes),
        "merged": codes.merged,
        "absent": codes.absent,
        "tests": sum(len(test.p) for test in tests),
        "significant": sum(int((test.q <= 0.05).sum()) for test in tests),
        "significant_family": sum(int((test.p_family <= 0.05).sum()) for test in tests),
        "roles": {
            role: {
                "never_fires": int(
                    ((comparison.a[role]["num_active"] == 0) & (comparison.b[role]["num_active"] == 0)).sum()
                ),
                "eligible": len(comparison.changes[role].latent),
                "undefined_gain": int(np.isnan(comparison.tests[role]["active_mean"].gain).sum()),
                "effect_at_bound": {
                    metric: int((np.abs(comparison.tests[role][metric].effect) >= bound).sum()) for metric in METRICS
                },
            }
            for role in codes.roles
        },
    }


def _write(
    path: str | Path,
    spec: Mapping[str, Any],
    codes: Codes,
    comparison: Comparison,
    tables: Mapping[str, Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> None:
    with artifacts.create(path, "template_diff", spec) as out:
        out.json("roles", codes.roles)
        out.json("metrics", METRICS)
        out.json("summary", summary)
        out.array("null_maxima", comparison.maxima)
        for number, role in enumerate(codes.roles):  # by number: a role may be any token, "/" too
            group = f"roles/{number}"
            for side, statistics in (("a", comparison.a[role]), ("b", comparison.b[role])):
                for name, values in statistics.items():
                    out.array(f"{group}/{side}/{name}", values.astype(np.float32), nan=UNDEFINED)
            out.array(f"{group}/latent", comparison.changes[role].latent)
            for metric, test in comparison.tests[role].items():
                for name, values in test._asdict().items():
                    out.array(f"{group}/{metric}/{name}", values, nan=UNDEFINED)
        for name, table in tables.items():
            out.table(name, table, nan=UNDEFINED)
        out.array("prompts_of_ranked", _top_prompts(codes, tables["ranked"]))


def _top_prompts(codes: Codes, table: Mapping[str, Any]) -> IntArray:
    """Token rows int64 [rows, PROMPTS] of the prompts on which a ranked latent changed most in the row's direction.

    -1 is padding; all -1 where no prompt changed in that direction or the codes have no token rows.
    """
    rows = np.full((len(table["latent"]), PROMPTS), -1, dtype=np.int64)
    if not codes.token_rows:
        return rows
    change = {role: sparse.csc_array(codes.b[role] - codes.a[role]) for role in codes.roles}
    table_rows = zip(table["role"], table["latent"], table["direction"], strict=True)
    for row, (role, latent, direction) in enumerate(table_rows):
        column = change[role][:, [latent]].tocoo()
        size = column.data if direction == "up" else -column.data
        order = np.lexsort((column.row, -size))
        prompt = column.row[order[size[order] > 0]][:PROMPTS]
        rows[row, : len(prompt)] = codes.row_of(role)[prompt]
    return rows
