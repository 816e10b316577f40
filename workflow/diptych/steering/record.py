"""Tables of the results of steering: trials, items, texts, and agreement between directions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.candidates.candidate import SIDES, SideName
from diptych.steering.directions import Item, Plan
from diptych.steering.effects import TRIAL_COLUMNS, causal
from diptych.steering.writing import Settings, Written
from diptych.storage.canonical import canonical_json

DoubleArray = npt.NDArray[np.float64]


def columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Rows as columns; the type of a column does not depend on whether there are rows."""
    numeric = {"item": np.int64, "scale": np.float64, "strength": np.float64, "cosine": np.float64, "null": np.float64}
    return {name: np.array([row[name] for row in rows], dtype=numeric.get(name, object)) for name in names}


def trial_columns(plan: Plan, written: Mapping[SideName, Written]) -> dict[str, Any]:
    """One row per trial, columns as in `effects.TRIAL_COLUMNS`."""
    rows = []
    for side in SIDES:
        results = written[side]
        share = _side_shares(plan.items, results)
        for t, (run, strength) in enumerate(results.trials):
            counted = results.counted[t]
            kl = np.where(counted, results.measured.kl[t], 0.0)
            surprise = np.where(counted, results.measured.surprise[t], 0.0)
            of_text = (kl.sum(axis=-1) / counted.sum(axis=-1)).ravel()
            error = of_text.std(ddof=1) / np.sqrt(len(of_text)) if len(of_text) > 1 else np.nan
            item = plan.items[run.item] if run.item >= 0 else None
            rows.append(
                {
                    "model": side,
                    "role": run.role,
                    "item": run.item,
                    "method": item.method if item else "",
                    "name": run.name,
                    "strength": strength,
                    "kl": float(kl.sum() / counted.sum()),
                    "kl_error": float(error),
                    "perplexity": float(np.exp(surprise.sum() / counted.sum())),
                    "share": float(share[run.item, t]) if item else np.nan,
                    "share_unsteered": float(share[run.item, 0]) if item else np.nan,
                    "tokens": int(counted.sum()),
                }
            )
    text = {"model", "role", "method", "name"}
    integers = {"item", "tokens"}
    kinds = {name: object if name in text else np.int64 if name in integers else np.float64 for name in TRIAL_COLUMNS}
    return {name: np.array([row[name] for row in rows], dtype=kind) for name, kind in kinds.items()}


def _side_shares(items: Sequence[Item], written: Written) -> DoubleArray:
    """Share of each item's words among the tokens of each trial, float64 [items, T]; NaN for an item without words."""
    bare = {token: text.strip().lower() for token, text in written.words.items()}
    shares = np.full((len(items), len(written.trials)), np.nan)
    for number, item in enumerate(items):
        item_tokens = [token for token, text in bare.items() if text in item.words]
        if item.words:
            hits = np.isin(written.tokens, item_tokens) & written.counted
            shares[number] = hits.sum(axis=(1, 2, 3)) / written.counted.sum(axis=(1, 2, 3))
    return shares


def shares(items: Sequence[Item], written: Mapping[SideName, Written]) -> DoubleArray:
    """Share of each item's words among the tokens of every trial of either model, float64 [items, trials]."""
    return np.concatenate([_side_shares(items, written[side]) for side in SIDES], axis=1)


def item_columns(plan: Plan, trials: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """One row per item; `words` as a JSON list, `carried` is ||d R|| / ||d|| under the map into the other model."""
    items = plan.items
    ratios = [causal(trials, number, item.side) for number, item in enumerate(items)]
    return {
        "method": np.array([item.method for item in items], dtype=object),
        "id": np.array([item.id for item in items], dtype=object),
        "side": np.array([item.side for item in items], dtype=object),
        "words": np.array([canonical_json(item.words) for item in items], dtype=object),
        "density": np.array([item.density for item in items], dtype=np.float64),
        "carried": np.array(plan.carried, dtype=np.float64),
        "causal": np.array(ratios, dtype=np.float64),
    }


def text_columns(written: Mapping[SideName, Written], settings: Settings) -> dict[str, Any]:
    """Every text, in the order of trials (A's, then B's), prompts and samples."""
    trial, prompt, draw, texts, start = [], [], [], [], 0
    for side in SIDES:
        shape = (len(written[side].trials), len(settings.prompts), settings.samples)
        index = np.indices(shape).reshape(3, -1)
        trial.append(start + index[0])
        prompt.append(index[1])
        draw.append(index[2])
        texts += written[side].texts
        start += shape[0]
    return {
        "trial": np.concatenate(trial).astype(np.int32),
        "prompt": np.concatenate(prompt).astype(np.int32),
        "sample": np.concatenate(draw).astype(np.int32),
        "text": np.array(texts, dtype=object),
    }


def agreement(plan: Plan, written: Mapping[SideName, Written], same_tokens: bool) -> dict[str, Any]:
    """Agreement of two directions of an item in the change of the next token.

    `cosine` is between the two changes of log-probabilities; `null` is the mean cosine of the first change with those
    of random directions in the second's model. Models are compared with each other only if their tokens are the same.
    """
    rows = []
    for number, item in enumerate(plan.items):
        other: SideName = "B" if item.side == "A" else "A"
        comparisons = [((item.side, "own"), (other, "transfer"))] if same_tokens else []
        if item.match is not None:
            comparisons.append(((other, "match"), (other, "transfer")))
        for (side_x, role_x), (side_y, role_y) in comparisons:
            for strength in sorted({c for _, c in written[side_x].trials if c != 0}):
                x = _shift_of(written[side_x], role_x, number, strength)
                y = _shift_of(written[side_y], role_y, number, strength)
                null = _shift_of(written[side_y], "random", -1, strength)
                if len(x) and len(y):
                    cosine = _cosines(x[0], y)[0]
                    level = float(_cosines(x[0], null).mean()) if len(null) else float("nan")
                    between = f"{role_x} in {side_x}, {role_y} in {side_y}"
                    rows.append(
                        {"item": number, "between": between, "strength": strength, "cosine": cosine, "null": level}
                    )
    return columns(rows, ("item", "between", "strength", "cosine", "null"))


def _shift_of(written: Written, role: str, item: int, strength: float) -> DoubleArray:
    trials = [t for t, (run, c) in enumerate(written.trials) if (run.role, run.item, c) == (role, item, strength)]
    return written.shifts[trials]


def _cosines(x: DoubleArray, rows: DoubleArray) -> DoubleArray:
    length = np.linalg.norm(x) * np.linalg.norm(rows, axis=1)
    cosines: DoubleArray = np.divide(rows @ x, length, out=np.full(len(rows), np.nan), where=length > 0)
    return cosines
