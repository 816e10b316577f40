"""A token file for planted rows, so that stages which read tokens run on them: every row is a token of plain text.

tokens.write("tokens.h5", document)          # row i is token i; documents are sequences
"""

from pathlib import Path
from typing import Any

import numpy as np

from diptych.activations import rows
from diptych.oracle.planted import FloatArray, IntArray
from diptych.storage import artifacts
from diptych.text import templates

FOLDS = 5
"""Document i is in fold i mod 5, as in `activations.rows.in_memory`."""


def write(path: str | Path, document: IntArray, spec: dict[str, Any]) -> None:
    """Write an artifact of kind "tokens" for rows [n] that are grouped by document, 0 .. D - 1."""
    n, starts = len(document), np.unique(document, return_index=True)[1]
    documents = np.arange(len(starts))
    with artifacts.create(path, "tokens", spec) as file:
        file.array("token", np.zeros(n, dtype=np.int32))
        file.array("sequence", document.astype(np.int32))
        file.array("position", _position(document).astype(np.int32))
        file.array("counts", np.ones(n, dtype=np.bool_))
        file.array("char_span", np.zeros((n, 2), dtype=np.int32))
        file.array("role", np.zeros(n, dtype=np.int8))
        file.array("sequences/start", np.append(starts, n))
        file.array("sequences/document", documents.astype(np.int32))
        file.strings("documents/id", [str(number) for number in documents])
        file.array("documents/source", np.zeros(len(documents), dtype=np.int32))
        file.array("documents/fold", (documents % FOLDS).astype(np.int32))
        file.array("vocabulary/id", np.zeros(1, dtype=np.int32))
        file.strings("vocabulary/text", ["token"])
        file.json("sources", ["planted"])
        file.json("roles", list(templates.ROLES))
        file.json("named_positions", [])
        file.json("tokenizer", "")


def aligned(matrices: tuple[FloatArray, ...], document: IntArray) -> rows.Rows:
    """Matrices [n, d_m] as the rows of the tokens that `write` writes."""
    pair = rows.in_memory(matrices, document, fold=document % FOLDS)
    return rows.Rows(pair.sides, pair.token_row, pair.document, pair.fold, pair.source, _position(document))


def _position(document: IntArray) -> IntArray:
    """Position of each row in its document."""
    starts = np.unique(document, return_index=True)[1]
    position: IntArray = np.arange(len(document)) - starts[document]
    return position
