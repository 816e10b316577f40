"""Stage that pairs two dictionaries' features, tests the unmatched ones and writes an artifact and TSV tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.affine_maps import affine
from diptych.correlation import stage
from diptych.dictionaries import codes
from diptych.dictionaries.codes import Features
from diptych.dictionaries.encoding import Dictionary
from diptych.pairing import gains, tables
from diptych.pairing.pairing import MATCHED, PAIR_COLUMNS, STATUSES, LatentStatuses, Pairing, Side, Slopes, pair_latents
from diptych.storage import artifacts
from diptych.text import contexts
from diptych.text.selection import Selection

BoolArray = npt.NDArray[np.bool_]
DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]

TOP_TOKENS = 5
"""Number of top tokens of a latent in the non-concept filter (METHODS 3.2)."""


def top_tokens(codes: Features, text: contexts.Text, count: int = TOP_TOKENS) -> list[list[str]]:
    """For each latent the `count` tokens (as text) outside the test fold on which it fires most, best first."""
    rows, _ = codes.select(codes.fold != 0).top_rows(count)
    texts = iter(text.words(rows[rows >= 0]))
    return [[next(texts) for _ in range(number)] for number in (rows >= 0).sum(axis=1).tolist()]


def pair(
    correlation_path: str | Path,
    features_a: Sequence[str | Path],
    features_b: Sequence[str | Path],
    dictionary_a: Dictionary,
    dictionary_b: Dictionary,
    linear_map_path: str | Path,
    tokens_a: str | Path,
    tokens_b: str | Path,
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    matches: str | Path | None = None,
    unmatched: str | Path | None = None,
    alignment: str | Path | None = None,
    selection: Selection | None = None,
    features_a_on_b: Sequence[str | Path] = (),
    features_b_on_a: Sequence[str | Path] = (),
    bootstrap: int = 1000,
    seed: int = 0,
    **settings: Any,
) -> None:
    """Stage `pair_features`: pair two dictionaries, test the unmatched latents, write an artifact of kind "pairing".

    Args:
        correlation_path: artifact of `correlation.stage.correlate` on the same features.
        features_a: shards of A's dictionary on A.
        features_b: shards of B's dictionary on B.
        dictionary_a: A's dictionary.
        dictionary_b: B's.
        linear_map_path: artifact of kind "linear_map" between the two sites; its best maps are used.
        tokens_a: the token file of A's rows.
        tokens_b: that of B's, the same for equal tokenizers.
        out: path of the artifact.
        spec: stored with it.
        matches: path for the matched pairs as TSV.
        unmatched: path for the ranked unmatched features as TSV.
        alignment: the aligned rows of two tokenizers.
        selection: which of A's rows are compared; None for all.
        features_a_on_b: shards of A's dictionary on B, to test A's unmatched latents; none at different sites, and not
            used where they have no codes because the widths differ (`codes.unreadable`).
        features_b_on_a: shards of B's dictionary on A.
        bootstrap: replicates for the intervals of the gains.
        seed: of that bootstrap.
        settings: rule, score and the other keyword arguments of `pair_latents`.

    Raises:
        DiptychError: inputs are missing or inconsistent, or no latent is eligible.
    """
    aligned = codes.read_alignment(alignment)
    on_a, on_b = codes.read(features_a), codes.read(features_b)
    codes_a, codes_b = codes.common_rows(on_a, on_b, aligned, selection)
    sides = [
        Side(codes, dictionary.W_enc, dictionary.W_dec, top_tokens(codes, contexts.Text(tokens)))
        for codes, dictionary, tokens in ((codes_a, dictionary_a, tokens_a), (codes_b, dictionary_b, tokens_b))
    ]
    with artifacts.read(linear_map_path, "linear_map") as file:
        slopes = Slopes(affine.load(file, "forward").slope, affine.load(file, "backward").slope)
    pairing = pair_latents(sides[0], sides[1], stage.read(correlation_path), slopes, **settings)
    tests: dict[str, gains.Gain] = {}
    if features_a_on_b and not codes.unreadable(features_a_on_b[0]):
        own, other = codes.common_rows(on_a, codes.read(features_a_on_b), aligned, selection)
        tests["a"] = gains.activation_gain(own, other, pairing.a.unmatched(), bootstrap=bootstrap, seed=seed)
    if features_b_on_a and not codes.unreadable(features_b_on_a[0]):
        other, own = codes.common_rows(codes.read(features_b_on_a), on_b, aligned, selection)
        tests["b"] = gains.activation_gain(own, other, pairing.b.unmatched(), bootstrap=bootstrap, seed=seed)
    write(pairing, tests, sides, out, spec)
    if matches is not None:
        artifacts.write_text(matches, _matches_tsv(pairing, sides))
    if unmatched is not None:
        artifacts.write_text(unmatched, _unmatched_tsv(pairing, tests, sides))


def _matches_tsv(pairing: Pairing, sides: Sequence[Side]) -> str:
    matched = np.flatnonzero(pairing.pairs["outcome"] == MATCHED)
    return tables.matched_tsv(pairing.pairs, matched, (sides[0].top_tokens, sides[1].top_tokens))


def _unmatched_tsv(pairing: Pairing, tests: Mapping[str, gains.Gain], sides: Sequence[Side]) -> str:
    latents = {
        "B": _unmatched_latents(pairing.b, tests.get("b"), sides[1]),
        "A": _unmatched_latents(pairing.a, tests.get("a"), sides[0]),
    }
    return tables.unmatched_tsv(latents)


def _unmatched_latents(statuses: LatentStatuses, gain: gains.Gain | None, side: Side) -> tables.UnmatchedLatents:
    latent = statuses.unmatched()
    nearest, score, q = statuses.partner[latent], statuses.score[latent], statuses.q[latent]
    return tables.UnmatchedLatents(latent, nearest, score, q, gain, side.top_tokens)


def write(
    pairing: Pairing, tests: Mapping[str, gains.Gain], sides: Sequence[Side], path: str | Path, spec: Mapping[str, Any]
) -> None:
    """Write an artifact of kind "pairing": tables `pairs`, `latents_a`, `latents_b`, `gain_a`, `gain_b`."""
    with artifacts.create(path, "pairing", spec) as out:
        pairs = dict(pairing.pairs)
        pairs["decoy"] = np.maximum(pairs["decoy"], np.finfo(np.float64).min)
        out.table("pairs", pairs, nan="cosines: the map does not carry A's row; encoder_cosine: a column of zeros")
        for name, statuses, side in (("a", pairing.a, sides[0]), ("b", pairing.b, sides[1])):
            columns: dict[str, npt.NDArray[Any]] = {
                "status": statuses.status,
                "partner": statuses.partner,
                "q": statuses.q,
                "score": statuses.score,
                "stands_for": statuses.representative,
                "top_tokens": np.array(["\t".join(tokens) for tokens in side.top_tokens], dtype=object),
            }
            out.table(f"latents_{name}", columns, nan="no candidate pair")
            if name in tests:
                out.table(f"gain_{name}", vars(tests[name]), nan="lo, hi: it seldom fires on the test fold")
        out.json("statuses", STATUSES)
        out.json("columns", PAIR_COLUMNS)
        out.json("summary", pairing.summary)
