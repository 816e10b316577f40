"""Codes of both models at the template's own tokens, one row per prompt, read from the feature shards.

One dictionary has encoded both models on the same rendered prompts. A role is a named token of the template
(`im_start`, `assistant`, `newline`), so that every prompt has exactly one row for it:

    codes = at_roles(["a-0.h5"], ["b-0.h5"], "tokens.h5", ["assistant", "newline"])
    codes.a["assistant"]     # CSR float32 [prompts, F]; row i of codes.b["assistant"] is the same prompt

`at_token` reads a given token at all of its positions instead. Of prompts with the same tokens only the first is
used, because copies of a prompt are not independent observations. Only the needed rows are read from disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.activations.rows import Rows
from diptych.dictionaries import encoding
from diptych.dictionaries.codes import open_shard
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Codes:
    """Codes of both models at each role, aligned by prompt.

    Attributes:
        a: role -> codes of model A, CSR [n, F], values >= 0.
        b: the same of model B; row i is the same prompt.
        prompts: ids of the n prompts.
        source: int64 [n], index into `sources`.
        fold: int64 [n]; fold 0 is the test fold.
        sources: names of the corpus sources.
        token_rows: role -> int64 [k], the token rows that were read (empty for codes not read from files).
        units: role -> int64 [k], index of the prompt of each of those rows (a prompt has several in any-position
            mode).
        merged: number of prompts omitted because an earlier one has the same tokens.
        absent: number of prompts omitted because the token is not in them (any-position mode only).
    """

    a: Mapping[str, sparse.csr_array]
    b: Mapping[str, sparse.csr_array]
    prompts: Sequence[str]
    source: IntArray
    fold: IntArray
    sources: Sequence[str] = ("all",)
    token_rows: Mapping[str, IntArray] = field(default_factory=dict)
    units: Mapping[str, IntArray] = field(default_factory=dict)
    merged: int = 0
    absent: int = 0

    def __post_init__(self) -> None:
        shape = (len(self.prompts), self.n_features)
        for role in self.a:
            for codes in (self.a[role], self.b[role]):
                if codes.shape != shape:
                    raise DiptychError(
                        f"role {role!r}: codes of shape {codes.shape}, not {shape}; "
                        "encode both models with one dictionary on one corpus"
                    )
                if codes.nnz and codes.data.min() < 0:
                    raise DiptychError(
                        f"role {role!r}: negative codes; use the dictionary's output after its activation"
                    )

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def roles(self) -> list[str]:
        """Names of the roles, in order."""
        return list(self.a)

    @property
    def n_features(self) -> int:
        """Number of latents F."""
        return int(next(iter(self.a.values())).shape[1])

    def row_of(self, role: str) -> IntArray:
        """The first token row of each prompt at a role, int64 [n]."""
        _, first = np.unique(self.units[role], return_index=True)
        return self.token_rows[role][first]


@dataclass(frozen=True)
class _Prompts:
    """Columns of the token file, one entry per token row; `ids`, `source` and `fold` have one per document."""

    path: str | Path
    token: IntArray
    document: IntArray
    role: IntArray
    ids: list[str]
    source: IntArray
    fold: IntArray
    sources: list[str]
    roles: list[str]

    def distinct(self) -> IntArray:
        """Documents with tokens, without those that repeat an earlier document's tokens."""
        starts = np.flatnonzero(np.diff(self.document, prepend=-1))
        first: dict[bytes, int] = {}
        for tokens, start in zip(np.split(self.token, starts[1:]), starts, strict=True):
            first.setdefault(tokens.tobytes(), int(self.document[start]))
        return np.array(sorted(first.values()), dtype=np.int64)


def read(
    features_a: Sequence[str | Path],
    features_b: Sequence[str | Path],
    tokens: str | Path,
    roles: Sequence[str] = (),
    token: str | None = None,
) -> Codes:
    """Codes at `token` (`at_token`) if given, else at `roles` (`at_roles`), by default all named template tokens.

    Raises:
        DiptychError: as these two, or the corpus names no template token.
    """
    if token is not None:
        return at_token(features_a, features_b, tokens, token)
    with artifacts.read(tokens, "tokens") as file:
        named_positions = [str(name) for name in artifacts.read_json(file, "named_positions")]
    if not roles and not named_positions:
        raise DiptychError(
            f"{tokens}: no template token has a name; let the corpus draw `prompts`, and give its `positions` if the "
            "template is of no known family"
        )
    return at_roles(features_a, features_b, tokens, roles or named_positions)


def at_roles(
    features_a: Sequence[str | Path], features_b: Sequence[str | Path], tokens: str | Path, roles: Sequence[str]
) -> Codes:
    """Codes at each of `roles`, one row per prompt.

    Args:
        features_a: feature shards of model A.
        features_b: feature shards of model B, from the same dictionary.
        tokens: the token file of the rendered prompts.
        roles: names of template tokens, among the token file's roles.

    Raises:
        DiptychError: a role is unknown, occurs not exactly once in a prompt, or its row has no codes in one of the
            models.
    """
    prompts = _read_prompts(tokens)
    distinct = prompts.distinct()
    rows = {role: _rows_of_role(prompts, role, distinct) for role in roles}
    token_row = np.unique(np.concatenate(list(rows.values())))
    codes_of_sides = []
    for shards in (features_a, features_b):
        codes = _select(shards, token_row, prompts)
        codes_of_sides.append({role: codes[np.searchsorted(token_row, rows[role])] for role in roles})
    units = {role: np.arange(len(distinct)) for role in roles}
    return _codes(codes_of_sides[0], codes_of_sides[1], prompts, distinct, rows, units)


def at_token(
    features_a: Sequence[str | Path], features_b: Sequence[str | Path], tokens: str | Path, token: str
) -> Codes:
    """Codes at a token at any position: per prompt the maximum over the token's occurrences.

    Args:
        features_a: feature shards of model A.
        features_b: feature shards of model B, from the same dictionary.
        tokens: the token file of the rendered prompts.
        token: the token's decoded text, exactly (" the" is not "the"); also the name of the only role.

    Raises:
        DiptychError: the token is not in the corpus, or one of its rows has no codes in one of the models.
    """
    prompts = _read_prompts(tokens)
    with artifacts.read(tokens, "tokens") as file:
        texts = np.array(artifacts.read_strings(file, "vocabulary/text"), dtype=object)
        ids = file["vocabulary/id"][:][texts == token]
        counts = file["counts"][:]
    distinct = prompts.distinct()
    token_row = np.flatnonzero(np.isin(prompts.token, ids) & counts & np.isin(prompts.document, distinct))
    if len(token_row) == 0:
        raise DiptychError(f"{tokens}: token {token!r} stands nowhere that counts; check its text and leading space")
    documents = np.unique(prompts.document[token_row])
    unit = np.searchsorted(documents, prompts.document[token_row])
    a, b = (
        {token: maximum_by_unit(_select(shards, token_row, prompts), unit, len(documents))}
        for shards in (features_a, features_b)
    )
    return _codes(a, b, prompts, documents, {token: token_row}, {token: unit}, absent=len(distinct) - len(documents))


def fvu(codes: Codes, rows: Rows, dictionary: encoding.Dictionary, *, device: str = "cpu") -> dict[str, float]:
    """The dictionary's pooled FVU on one model's rows at each role; NaN where they have no variance.

    Args:
        codes: read by `at_roles` or `at_token`; its token rows are used.
        rows: that model's rows at the dictionary's site.
        dictionary: the dictionary of the codes.
        device: where it runs.
    """
    fvu_of = {}
    for role, token_rows in codes.token_rows.items():
        is_at_role = np.isin(rows.token_row[0], token_rows)
        at_role = replace(
            rows,
            token_row=rows.token_row[:, is_at_role],
            document=rows.document[is_at_role],
            fold=rows.fold[is_at_role],
            source=rows.source[is_at_role],
            position=rows.position[is_at_role],
        )
        reconstruction = encoding.encode_rows(at_role, dictionary, device=device).reconstruction
        fvu_of[role] = reconstruction.fvu if reconstruction else float("nan")
    return fvu_of


def change_unexplained(codes: Codes, a: Rows, b: Rows, dictionary: encoding.Dictionary) -> dict[str, float]:
    """Share of the activations' change at each role that the change of the codes does not explain (pooled).

    sum ||(x_B - x_A) - (f_B - f_A) W_dec||^2 / sum ||x_B - x_A||^2: 0 if the features explain the whole change, 1 if
    nothing of it, above 1 if they describe another change. NaN where nothing changed or codes are maxima over several
    rows (any-position mode). A dictionary that normalises each row describes xhat_B - xhat_A.

    Args:
        codes: read by `at_roles`; its token rows are used.
        a: A's rows at the dictionary's site.
        b: B's rows there.
        dictionary: the dictionary of the codes.
    """
    share_of = {}
    for role, token_rows in codes.token_rows.items():
        x_a, x_b = (rows.take(np.searchsorted(rows.token_row[0], token_rows)).x[0] for rows in (a, b))
        change = (x_b - x_a).astype(np.float64)
        total = float((change**2).sum())
        if total == 0.0 or len(token_rows) != len(codes):
            share_of[role] = float("nan")
            continue
        described = encoding.described_change(dictionary, (codes.a[role], x_a), (codes.b[role], x_b))
        share_of[role] = float(((change - described) ** 2).sum()) / total
    return share_of


def _codes(
    a: Mapping[str, sparse.csr_array],
    b: Mapping[str, sparse.csr_array],
    prompts: _Prompts,
    documents: IntArray,
    token_rows: Mapping[str, IntArray],
    units: Mapping[str, IntArray],
    absent: int = 0,
) -> Codes:
    return Codes(
        a,
        b,
        prompts=[prompts.ids[document] for document in documents],
        source=prompts.source[documents],
        fold=prompts.fold[documents],
        sources=prompts.sources,
        token_rows=token_rows,
        units=units,
        merged=len(np.unique(prompts.document)) - len(prompts.distinct()),
        absent=absent,
    )


def _read_prompts(tokens: str | Path) -> _Prompts:
    with artifacts.read(tokens, "tokens") as file:
        return _Prompts(
            path=tokens,
            token=file["token"][:].astype(np.int64),
            document=file["sequences/document"][:].astype(np.int64)[file["sequence"][:]],
            role=file["role"][:].astype(np.int64),
            ids=artifacts.read_strings(file, "documents/id"),
            source=file["documents/source"][:].astype(np.int64),
            fold=file["documents/fold"][:].astype(np.int64),
            sources=[str(name) for name in artifacts.read_json(file, "sources")],
            roles=[str(name) for name in artifacts.read_json(file, "roles")],
        )


def _rows_of_role(prompts: _Prompts, role: str, documents: IntArray) -> IntArray:
    """The token row of `role` in each of `documents`."""
    if role not in prompts.roles:
        raise DiptychError(f"{prompts.path}: no role {role!r}; the template has {', '.join(prompts.roles)}")
    # The last of equal names is meant: named positions follow the speakers' roles, and `assistant` can be both.
    code = len(prompts.roles) - 1 - prompts.roles[::-1].index(role)
    rows = np.flatnonzero((prompts.role == code) & np.isin(prompts.document, documents))
    occurrences = np.bincount(prompts.document[rows], minlength=len(prompts.ids))[documents]
    if (occurrences != 1).any():
        first_wrong = int(np.flatnonzero(occurrences != 1)[0])
        raise DiptychError(
            f"{prompts.path}: role {role!r} stands {occurrences[first_wrong]} times, not once, in prompt "
            f"{prompts.ids[documents[first_wrong]]!r} ({int((occurrences != 1).sum())} such prompts); "
            "render it with a generation prompt"
        )
    return rows


def _select(shards: Sequence[str | Path], token_rows: IntArray, prompts: _Prompts) -> sparse.csr_array:
    """Codes of the sorted `token_rows`, CSR [len(token_rows), F]."""
    parts, selected = [], []
    for path in shards:
        with open_shard(path) as file:
            token_row = file["token_row"][:]
            index = np.flatnonzero(np.isin(token_row, token_rows))
            selected.append(token_row[index])
            runs = np.split(index, np.flatnonzero(np.diff(index) > 64) + 1)
            parts += [_read_run(file, run) for run in runs if len(run)]
    rows = np.concatenate(selected) if selected else np.zeros(0, dtype=np.int64)
    missing = np.setdiff1d(token_rows, rows)
    if len(missing):
        row = int(missing[0])
        raise DiptychError(
            f"{shards[0] if shards else 'features'}: no codes of token row {row} in prompt "
            f"{prompts.ids[prompts.document[row]]!r} ({len(missing)} such rows); see the gates' `cause` for why"
        )
    stacked: Any = sparse.vstack(parts, format="csr")
    return sparse.csr_array(stacked[np.argsort(rows, kind="stable")])


def _read_run(file: h5py.File, run: IntArray) -> sparse.csr_array:
    """Rows `run` (sorted, close together) of a feature shard, read from disk as one span."""
    indptr = file["indptr"][run[0] : run[-1] + 2]
    span = slice(indptr[0], indptr[-1])
    shape = (len(indptr) - 1, int(artifacts.read_json(file, "n_features")))
    codes = sparse.csr_array((file["data"][span], file["indices"][span], indptr - indptr[0]), shape=shape)
    return sparse.csr_array(codes[run - run[0]])


def maximum_by_unit(codes: sparse.csr_array, unit: IntArray, n_units: int) -> sparse.csr_array:
    """Elementwise maximum of the rows that belong to each unit, CSR [n_units, F]."""
    entries = codes.tocoo()
    row, column = unit[entries.row], entries.col
    order = np.lexsort((entries.data, column, row))
    row, column, value = row[order], column[order], entries.data[order]
    last = np.append((np.diff(row) != 0) | (np.diff(column) != 0), True)[: len(row)]
    shape = (n_units, codes.shape[1])
    return sparse.csr_array(sparse.coo_array((value[last], (row[last], column[last])), shape=shape))
