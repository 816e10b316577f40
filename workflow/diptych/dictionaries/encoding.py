"""Sparse codes: what a dictionary says about each row of activations, kept as CSR.

A dictionary (sparse autoencoder) turns a row x [d] into a code f [F] of which few entries are not zero, and back
into xhat = decode(f). `encode_rows` runs a model's valid rows through it block by block:

    codes = encode_rows(rows, dictionary)        # Features: codes.codes is CSR float32 [n, F]
    codes.summary()["l0_mean"]                   # latents that fire on a token, on average
    codes.summary()["fvu"]                       # share of the rows' variance that decode(encode(x)) misses
    codes.statistics().density                   # [F] share of the rows on which each latent fires

A dictionary is read on its own model and on the other model of a pair, if that is as wide (else the file says that it
is not, `unreadable`); each shard of rows is one file, and `codes.read` puts the shards together. FVU is in the units of
the rows, also where a dictionary normalises each of them before it encodes it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.activations.rows import Rows
from diptych.dictionaries.codes import UNREADABLE, Features, Reconstruction, _stack
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

if TYPE_CHECKING:
    import torch

    Csr = sparse.csr_array[Any, tuple[int, int]]

BoolArray = npt.NDArray[np.bool_]
DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Dictionary(Protocol):
    """A sparse autoencoder of width d with F latents; `encode` is after its activation function."""

    @property
    def width(self) -> int:
        """d."""

    @property
    def n_features(self) -> int:
        """F."""

    @property
    def W_enc(self) -> FloatArray:  # noqa: N802
        """Encoder columns, float32 [d, F]."""

    @property
    def W_dec(self) -> FloatArray:  # noqa: N802
        """Decoder rows, float32 [F, d]."""

    @property
    def normalize_activations(self) -> str:
        """Normalisation of each row before encoding; "none" if codes are in the units of the rows."""

    def encode(self, x: "torch.Tensor", /) -> "torch.Tensor":
        """Codes [b, F] of rows x float32 [b, d], dense or torch CSR."""

    def decode(self, codes: "torch.Tensor", x: "torch.Tensor", /) -> "torch.Tensor":
        """Reconstructions [b, d], in the units of the rows x, of codes as `encode` returns them of x."""


def encode_rows(
    rows: Rows, dictionary: Dictionary, *, block_rows: int = 4096, device: "str | torch.device" = "cpu"
) -> Features:
    """One model's rows through a dictionary.

    Args:
        rows: rows of one model.
        dictionary: its weights are on `device`.
        block_rows: rows encoded at a time.
        device: where the encoding runs.

    Returns:
        Codes of all rows with the reconstruction sums.

    Raises:
        DiptychError: the dictionary's width is not that of the rows.
    """
    if rows.widths != (dictionary.width,):
        raise DiptychError(f"dictionary of width {dictionary.width} on rows of width {rows.widths}: check its site")
    mean = _mean(rows, block_rows)
    parts: list[Csr] = []
    sums = np.zeros(4)
    blocks = logs.progress(rows.blocks(block_rows), "encode", total=-(-len(rows) // block_rows), unit="block")
    for block in blocks:
        codes, more = _encode_block(block.x[0], mean, dictionary, device)
        parts.append(codes)
        sums += more
    empty: Csr = cast("Csr", sparse.csr_array((0, dictionary.n_features), dtype=np.float32))
    return Features(
        codes=_stack([empty, *parts]),
        token_row=rows.token_row[0],
        document=rows.document,
        fold=rows.fold,
        source=rows.source,
        reconstruction=Reconstruction(len(rows), mean, float(sums[0]), float(sums[1]), float(sums[2]), int(sums[3])),
    )


def _mean(rows: Rows, block_rows: int) -> DoubleArray:
    total = np.zeros(rows.widths[0])
    for block in rows.blocks(block_rows):
        total += block.x[0].sum(axis=0, dtype=np.float64)
    return total / max(len(rows), 1)


def _encode_block(
    x: FloatArray, mean: DoubleArray, dictionary: Dictionary, device: "str | torch.device"
) -> "tuple[Csr, DoubleArray]":
    """Codes of a block, and its part of error, total, ev_token_sum and ev_tokens."""
    import torch

    with torch.inference_mode():
        x_BD = torch.from_numpy(x).to(device)
        codes = dictionary.encode(x_BD)
        error = (x_BD - dictionary.decode(codes, x_BD)).double().square().sum(dim=1).cpu().numpy()
        sparse_codes = _to_csr(codes)
    total = np.square(x - mean).sum(axis=1)
    varies = total > 0
    ratios = 1 - error[varies] / total[varies]
    return sparse_codes, np.array([error.sum(), total.sum(), ratios.sum(), varies.sum()])


def described_change(dictionary: Dictionary, a: "tuple[Csr, FloatArray]", b: "tuple[Csr, FloatArray]") -> DoubleArray:
    """Change of rows as reconstructed from codes, float64 [n, d]: xhat_B - xhat_A, in the units of the rows.

    (f_B - f_A) W_dec, unless each row is normalised: then its code is in units of its own.

    Args:
        dictionary: the one that made the codes.
        a: codes [n, F] before, and their rows [n, d].
        b: the same after.
    """
    if dictionary.normalize_activations == "none":
        change: DoubleArray = (b[0] - a[0]).astype(np.float64) @ dictionary.W_dec.astype(np.float64)
        return change
    return _decoded(dictionary, *b) - _decoded(dictionary, *a)


def _decoded(dictionary: Dictionary, codes: "Csr", x: FloatArray, block_rows: int = 1024) -> DoubleArray:
    """Reconstructions, float64 [n, d], of sparse codes of rows x."""
    import torch

    decoded = np.empty(x.shape)
    with torch.inference_mode():
        for start in range(0, len(x), block_rows):
            block = slice(start, start + block_rows)
            dense = torch.from_numpy(codes[block].toarray().astype(np.float32))
            decoded[block] = dictionary.decode(dense, torch.from_numpy(x[block])).double().numpy()
    return decoded


def _to_csr(codes: "torch.Tensor") -> "Csr":
    """A torch code matrix, dense or CSR, on any device, as scipy CSR with only its non-zero entries moved."""
    import torch

    shape = (codes.shape[0], codes.shape[1])
    if codes.layout == torch.sparse_csr:
        values, indices, indptr = codes.values(), codes.col_indices(), codes.crow_indices().cpu().numpy()
    else:
        row, indices = codes.nonzero(as_tuple=True)
        values = codes[row, indices]
        indptr = np.concatenate([[0], np.cumsum(torch.bincount(row, minlength=shape[0]).cpu().numpy())])
    matrix = sparse.csr_array(
        (values.float().cpu().numpy(), indices.to(torch.int32).cpu().numpy(), indptr), shape=shape, dtype=np.float32
    )
    matrix.sort_indices()
    return matrix


def write(
    features: Features, path: str | Path, spec: Mapping[str, Any], layers: Mapping[str, Reconstruction] | None = None
) -> None:
    """Write one shard as an artifact of kind "features"; its layout is that of `read`, and of `layer_check.read`."""
    codes, statistics = features.csr, features.statistics()
    top_row, top_value = features.top_rows()
    with artifacts.create(path, "features", spec) as out:
        out.array("indptr", codes.indptr.astype(np.int64))
        out.array("indices", codes.indices.astype(np.int32))
        out.array("data", codes.data.astype(np.float32))
        out.array("token_row", features.token_row)
        out.array("document", features.document)
        out.array("fold", features.fold)
        out.array("source", features.source)
        out.array("latents/density", statistics.density.astype(np.float32))
        out.array("latents/max", statistics.max.astype(np.float32))
        out.array("latents/mean", statistics.mean.astype(np.float32))
        out.array("latents/std", statistics.std.astype(np.float32))
        out.array("latents/top_row", top_row)
        out.array("latents/top_value", top_value)
        out.json("n_features", features.n_features)
        out.json("summary", features.summary())
        if features.reconstruction is not None:
            write_reconstruction(out, "reconstruction", features.reconstruction)
        out.json("layers", list(layers or {}))
        for hook, sums in (layers or {}).items():
            write_reconstruction(out, f"layers/{hook}", sums)


def write_unreadable(path: str | Path, spec: Mapping[str, Any], widths: Sequence[int]) -> None:
    """Write a shard that says why it holds no codes: a dictionary of the first width on rows of the second."""
    reason = f"a dictionary of width {widths[0]} cannot read rows of width {widths[1]}"
    logs.logger.warning("%s; none of its features can be compared on them", reason)
    with artifacts.create(path, "features", spec) as out:
        out.json(UNREADABLE, reason)


def write_reconstruction(out: artifacts.Writer, name: str, sums: Reconstruction) -> None:
    """Write the sums as a group of their own."""
    out.array(f"{name}/mean", sums.mean)
    out.array(f"{name}/sums", [sums.error, sums.total, sums.ev_token_sum])
    out.array(f"{name}/counts", [sums.n, sums.ev_tokens])


def encode(
    rows: Rows,
    dictionary: Dictionary,
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    own: bool = True,
    layers: Callable[[], Mapping[str, Reconstruction]] = dict,
    block_rows: int = 4096,
    device: "str | torch.device" = "cpu",
) -> None:
    """Stage `encode_features`: one shard's valid rows of one model through a dictionary, written to `out`.

    Args:
        rows: of the shard.
        dictionary: its weights are on `device`.
        out: path of the artifact; of a dictionary that cannot read these rows it says why.
        spec: stored with it.
        own: whether the dictionary belongs to the rows' model, and so must be able to read them.
        layers: the dictionary's reconstruction at its site and the neighbouring layers (`layer_check.measure`).
        block_rows: rows encoded at a time.
        device: where the encoding runs.

    Raises:
        DiptychError: the dictionary is the model's own, and not of the rows' width.
    """
    if not own and rows.widths != (dictionary.width,):
        write_unreadable(out, spec, (dictionary.width, *rows.widths))
        return
    begun = time.monotonic()
    features = encode_rows(rows, dictionary, block_rows=block_rows, device=device)
    numbers = features.summary()
    speed = len(rows) / max(time.monotonic() - begun, 1e-9)
    logs.logger.info(
        "%d rows at %.0f rows/s, L0 %.1f, FVU %.3f, dead %.1f %%",
        len(rows), speed, numbers["l0_mean"], numbers["fvu"], 100 * numbers["dead_share"],
    )  # fmt: skip
    write(features, out, spec, layers())
