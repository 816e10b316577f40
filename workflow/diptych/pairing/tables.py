"""TSV tables of a pairing: the matched pairs, and the ranked unmatched features.

`matches.tsv` lists the matched pairs, best first; `unmatched.tsv` the unmatched features of B and of A, those most
clearly absent from the other model first.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.pairing.gains import Gain
from diptych.storage.tables import tsv

Columns = dict[str, npt.NDArray[Any]]
IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]
Tokens = Sequence[Sequence[str]]
GAIN_COLUMNS = ("fitted", "held_out", "lo", "hi", "p", "q", "documents")


class UnmatchedLatents(NamedTuple):
    """A model's unmatched latents [u]: nearest candidate (-1 for none), its score and q, and the test of their gain.

    `top_tokens` is of all latents of the dictionary; `gain` is None where widths or sites differ.
    """

    latent: IntArray
    nearest: IntArray
    score: DoubleArray
    q: DoubleArray
    gain: Gain | None
    top_tokens: Tokens


def matched_tsv(pairs: Mapping[str, npt.NDArray[Any]], rows: IntArray, top_tokens: tuple[Tokens, Tokens]) -> str:
    """The pairs `rows` as TSV: columns of `PAIR_COLUMNS`, `unexplained` = 1 - cos^2 of decoder rows, and top tokens."""
    rows = rows[np.argsort(-pairs["score"][rows], kind="stable")]
    columns: Columns = {name: values[rows] for name, values in pairs.items() if name != "outcome"}
    columns["unexplained"] = 1 - columns["cosine"] ** 2
    for name, tokens in zip("ab", top_tokens, strict=True):
        columns[f"top_tokens_{name}"] = _tokens(tokens, columns[name])
    return tsv(columns)


def unmatched_tsv(sides: Mapping[str, UnmatchedLatents]) -> str:
    """The unmatched features of both sides, ranked, as TSV.

    Ranked by the p of the gain (how much more a feature fires in its own model), then by the gain. Where widths or
    sites differ and gains were not tested, by the nearest candidate: high q and low score first.
    """
    parts = [_ranked(name, side) for name, side in sides.items()]
    return tsv({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _ranked(name: str, side: UnmatchedLatents) -> Columns:
    gain = {column: np.full(len(side.latent), np.nan) for column in GAIN_COLUMNS}
    if side.gain is not None:
        gain = {column: np.asarray(getattr(side.gain, column), dtype=np.float64) for column in GAIN_COLUMNS}
        order = np.lexsort((-gain["held_out"], gain["p"]))
    else:
        order = np.lexsort((np.nan_to_num(side.score, nan=-np.inf), -np.nan_to_num(side.q)))
    return {
        "rank": np.arange(1, len(order) + 1),
        "side": np.full(len(order), name, dtype=object),
        "feature": side.latent[order],
        **{f"gain_{column}": values[order] for column, values in gain.items()},
        "nearest": side.nearest[order],
        "nearest_score": side.score[order],
        "nearest_q": side.q[order],
        "top_tokens": _tokens(side.top_tokens, side.latent[order]),
    }


def _tokens(top_tokens: Tokens, latents: IntArray) -> npt.NDArray[Any]:
    texts = [" | ".join(token.strip() for token in top_tokens[latent]) for latent in latents.tolist()]
    return np.array(texts, dtype=object)
