"""The means stage: mean differences of two models' activations at named places, read in words; norms and distances.

    compare(pair, counts, text, "means.h5", spec=spec, models=("models/base", "models/tuned"))

`places` names the places, `differences` computes and tests the mean differences, `vocabulary` reads them through the
models' unembeddings, `groups` summarises norms and distances by source, role, position and token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.activations.rows import Rows
from diptych.means import differences, groups, places, vocabulary
from diptych.means.differences import TEST_FOLD, Differences
from diptych.means.places import BoolArray, DoubleArray
from diptych.runtime import logs
from diptych.statistics import resampling
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json
from diptych.text.contexts import Text
from diptych.text.own_vocabulary import own_vocabulary

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Corpora:
    """Token files by which a fine-tune's own vocabulary is known: what it was trained on, and a reference."""

    own: str | Path
    reference: str | Path


def compare(
    pair: Rows,
    counts: BoolArray,
    text: Text,
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    models: Sequence[str | Path] = (),
    corpora: Corpora | None = None,
    same_tokens: bool = True,
    positions: int = 5,
    moved: float = 0.01,
    lens: int = 20,
    contexts: int = 20,
    bootstrap: int = 1000,
    random: int = 20,
    seed: int = 0,
) -> None:
    """Write an artifact of kind "means" (stage `compare_means`).

    Args:
        pair: rows of A and B, those at the first positions of every sequence included, whether they count or not.
        counts: bool [n], the rows that count.
        text: A's tokens.
        out: path of the artifact.
        spec: stored with it.
        models: directories of A and B, whose unembeddings read the directions; () where the site has no logit lens.
        corpora: of the fine-tune that made B; None if it was not tuned on a corpus of the study.
        same_tokens: whether both models read the same tokens.
        positions: first positions of a text, each a place of its own.
        moved: share of the rows that count that moved most.
        lens: tokens that a direction promotes, and suppresses.
        contexts: rows stored for each place.
        bootstrap: Poisson replicates over documents for the bounds of an effect.
        random: random directions that the directions are compared with in words.
        seed: of the random directions and the bootstrap.
    """
    untested = _untested(pair, same_tokens)
    with artifacts.create(out, "means", spec) as writer:
        if untested:
            logs.logger.info("only norms are compared: %s", untested)
            rows = differences.norms(pair)
        else:
            at = places.of_tokens(pair, counts, text, positions)
            found = differences.compare(pair, counts, at, moved=moved, random=random, seed=seed)
            rows = found.rows
            if len(found.length):
                _write_places(writer, pair, found, contexts=contexts, bootstrap=bootstrap, seed=seed)
                _write_words(writer, found, models, corpora, scale=float(np.median(rows.norm_A[counts])), count=lens)
        groups.write(writer, pair, counts, text, rows)
        writer.json("summary", {"untested": untested, "first_only": bool((pair.position < positions).all())})


def _untested(pair: Rows, same_tokens: bool) -> str:
    """Why mean differences cannot be taken, or ""."""
    if not same_tokens:
        return "the models read different tokens"
    if len(set(pair.widths)) > 1:
        return f"the models' widths differ ({pair.widths[0]} and {pair.widths[1]})"
    return ""


def _write_places(
    writer: artifacts.Writer, pair: Rows, found: Differences, *, contexts: int, bootstrap: int, seed: int
) -> None:
    """One row per place: effect, held-out effect with bounds, p; and the rows where the difference is largest."""
    effect, held_out = found.length / found.scale, found.held_out / found.scale[:, None]
    fitted = pair.fold != TEST_FOLD
    top_row, top_value = _strongest(pair, found, contexts)
    writer.table(
        "places",
        {
            "name": list(found.places.names),
            "effect": effect,
            **_held_out(held_out, bootstrap, seed),
            "length": found.length,
            "scale": found.scale,
            "rows": found.places.member.sum(axis=1),
            "documents": [len(np.unique(pair.document[at & fitted])) for at in found.places.member],
            "test_documents": np.isfinite(held_out).sum(axis=1),
        },
        nan="no document of the test fold has such a row",
    )
    writer.array("direction", found.direction)
    writer.array("top_row", top_row)
    writer.array("top_value", top_value)


def _held_out(held_out: DoubleArray, bootstrap: int, seed: int) -> dict[str, DoubleArray]:
    """Mean over the test documents that have the place, its 95 % bounds, and its one-sided sign-flip p, each [P]."""
    is_known = np.isfinite(held_out)
    values, n_known = np.where(is_known, held_out, 0.0), is_known.sum(axis=1)
    tested = n_known > 0
    mean = np.where(tested, values.sum(axis=1) / np.maximum(n_known, 1), np.nan)
    bounds = resampling.poisson_bootstrap(
        np.stack([values.T, is_known.T.astype(np.float64)], axis=1),
        lambda sums: np.divide(sums[:, 0], sums[:, 1], out=np.full_like(sums[:, 0], np.nan), where=sums[:, 1] > 0),
        n=bootstrap,
        seed=seed,
    )
    p = np.where(tested, resampling.sign_flip_p(values, two_sided=False), np.nan)
    return {"held_out": mean, "lo": bounds.lo, "hi": bounds.hi, "p": p}


def _strongest(pair: Rows, found: Differences, count: int) -> tuple[IntArray, DoubleArray]:
    """A's token rows of fold 0 with the largest (x_B - x_A) . u at each place [P, count], and these; -1 is padding."""
    rows = np.full((len(found.length), count), -1, dtype=np.int64)
    values = np.zeros((len(found.length), count))
    for place, at in enumerate(found.places.member):
        candidates = np.flatnonzero(at & (pair.fold == TEST_FOLD))
        projection = found.projection[place, candidates]
        strongest = np.argsort(-projection, kind="stable")[:count]
        rows[place, : len(strongest)] = pair.token_row[0, candidates[strongest]]
        values[place, : len(strongest)] = projection[strongest]
    return rows, values


def _write_words(
    writer: artifacts.Writer,
    found: Differences,
    models: Sequence[str | Path],
    corpora: Corpora | None,
    *,
    scale: float,
    count: int,
) -> None:
    """Tokens that each direction promotes and suppresses in either model, and how many are the fine-tune's own."""
    own = own_vocabulary(corpora.own, corpora.reference) if corpora else None
    n_places = len(found.direction)
    columns: dict[str, list[Any]] = {name: [] for name in ("model", "place", "promoted", "suppressed", "own_share")}
    random_share = []
    rows = np.concatenate([found.direction, found.random])
    for side, model in zip("AB", models, strict=False):
        lens = vocabulary.read_lens(model, rows, scale=scale, count=count)
        share = np.full(len(rows), np.nan) if own is None else vocabulary.share_of(lens.promoted, own)
        columns["model"] += [side] * n_places
        columns["place"] += list(range(n_places))
        columns["promoted"] += [canonical_json(texts) for texts in lens.promoted_text[:n_places]]
        columns["suppressed"] += [canonical_json(texts) for texts in lens.suppressed_text[:n_places]]
        columns["own_share"] += share[:n_places].tolist()
        random_share.append(share[n_places:])
    typed = {name: np.array(values, dtype=DTYPES.get(name, object)) for name, values in columns.items()}
    writer.table("lens", typed, nan=NO_OWN_VOCABULARY)
    writer.array("random_own_share", np.array(random_share).reshape(-1, len(found.random)), nan=NO_OWN_VOCABULARY)
    writer.json("own_vocabulary", None if own is None else vocabulary.texts(models[-1], own) if models else [])


DTYPES = {"place": np.int64, "own_share": np.float64}
NO_OWN_VOCABULARY = "B was not tuned on a corpus of the study with a reference beside it"
