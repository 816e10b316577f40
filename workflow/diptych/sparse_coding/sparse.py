"""Sparse encoding and decoding: the non-zero entries of a k-sparse code, with exact gradients.

A dense training step multiplies the code [B, F] with the decoder and, going back, four matrices of that shape,
although all but B * k entries are zero. Here only the selected entries are decoded and only their gradients are
computed; the only dense product left is the encoder's:

    selection = selection_from_flat(positions(score_BF >= cut), score_BF.shape)
    f = encode(z_BD, W_enc, b_enc, selection, product_BF)  # [nnz], differentiable
    x_hat_BD = decode(f, W_dec, selection)                 # differentiable

The gradients equal those of dense autograd. A gather of whole rows is summed by `embedding_bag`, which is faster
here than a sparse product; the gradients of the entries themselves are a sampled dense product.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True)
class Selection:
    """Positions of the selected entries of a [B, F] matrix, in row order.

    Attributes:
        row: int64 [nnz], non-decreasing.
        latent: int64 [nnz], increasing within a row.
        shape: (B, F).
    """

    row: Tensor
    latent: Tensor
    shape: tuple[int, int]

    @cached_property
    def row_start(self) -> Tensor:
        """Offset of each row's first entry, [B + 1]."""
        return _offsets(self.row, self.shape[0])

    @cached_property
    def latent_start(self) -> Tensor:
        """Offset of each latent's first entry once sorted by latent, [F + 1]."""
        return _offsets(self.latent, self.shape[1])

    @cached_property
    def by_latent(self) -> Tensor:
        """Permutation that sorts the entries by latent, rows increasing within a latent, [nnz]."""
        if self.latent.device.type == "cpu" and self.shape[1] <= 2**16:  # NumPy sorts 16-bit keys by radix
            order = np.argsort(self.latent.numpy().astype(np.uint16), kind="stable")
            return torch.from_numpy(order)
        return self.latent.argsort(stable=True)

    @cached_property
    def row_by_latent(self) -> Tensor:
        """The row of each entry once sorted by latent, [nnz]."""
        return self.row[self.by_latent]

    def within(self, first: int, last: int) -> tuple["Selection", Tensor]:
        """The entries whose latent is in first .. last - 1, and their indices among all entries."""
        index = ((self.latent >= first) & (self.latent < last)).nonzero()[:, 0]
        return Selection(self.row[index], self.latent[index], self.shape), index


def selection_from_flat(flat: Tensor, shape: tuple[int, int]) -> Selection:
    """The selection of entries at increasing positions in the flattened matrix."""
    row = torch.div(flat, shape[1], rounding_mode="floor")
    return Selection(row, flat - row * shape[1], shape)


def positions(mask: Tensor) -> Tensor:
    """Increasing positions of the true entries of a flattened boolean matrix."""
    if mask.device.type == "cpu":  # several times faster than torch.nonzero
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]


def encode(z_BD: Tensor, W_enc: Tensor, b_enc: Tensor, selection: Selection, product_BF: Tensor) -> Tensor:
    """The selected entries [nnz] of z W_enc^T + b_enc, differentiable in the encoder.

    `product_BF` is z W_enc^T, already computed (the bias is added to the selected entries alone).
    """
    values: Tensor = _Encode.apply(z_BD, W_enc, b_enc, selection, product_BF)  # type: ignore[no-untyped-call]
    return values


def decode(f: Tensor, W_dec: Tensor, selection: Selection) -> Tensor:
    """f W_dec [B, D] for the code whose selected entries are f [nnz]; differentiable in both."""
    x_hat_BD: Tensor = _Decode.apply(f, W_dec, selection)  # type: ignore[no-untyped-call]
    return x_hat_BD


def sum_by_latent(f: Tensor, rows_BD: Tensor, selection: Selection) -> Tensor:
    """f^T rows [F, D] for the code whose selected entries are f [nnz]."""
    return _gather_sum(rows_BD, selection.row_by_latent, selection.latent_start, f[selection.by_latent])


def entries_of_product(left: Tensor, right: Tensor, selection: Selection) -> Tensor:
    """The selected entries of left @ right, [nnz]."""
    zeros = torch.zeros(len(selection.latent), dtype=left.dtype, device=left.device)
    with warnings.catch_warnings():  # "beta state", once per process
        warnings.simplefilter("ignore", UserWarning)
        pattern = torch.sparse_csr_tensor(
            selection.row_start, selection.latent, zeros, selection.shape, check_invariants=False
        )
    entries: Tensor = torch.sparse.sampled_addmm(pattern, left, right, beta=0.0).values()
    return entries


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z_BD: Tensor, W_enc: Tensor, b_enc: Tensor, selection: Selection, product_BF: Tensor
    ) -> Tensor:
        ctx.save_for_backward(z_BD)
        ctx.selection = selection
        return product_BF.view(-1)[selection.row * selection.shape[1] + selection.latent] + b_enc[selection.latent]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, None, None]:
        (z_BD,) = ctx.saved_tensors
        grad, selection = grads[0], ctx.selection
        grad_W_enc = sum_by_latent(grad, z_BD, selection)
        grad_b_enc = torch.zeros(selection.shape[1], dtype=grad.dtype, device=grad.device)
        return None, grad_W_enc, grad_b_enc.index_add_(0, selection.latent, grad), None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, W_dec: Tensor, selection: Selection) -> Tensor:
        ctx.save_for_backward(f, W_dec)
        ctx.selection = selection
        return _gather_sum(W_dec, selection.latent, selection.row_start, f)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        f, W_dec = ctx.saved_tensors
        grad_BD, selection = grads[0].contiguous(), ctx.selection
        grad_f = entries_of_product(grad_BD, W_dec.T, selection)
        grad_W_dec = sum_by_latent(f, grad_BD, selection)
        return grad_f, grad_W_dec, None


def _gather_sum(rows: Tensor, index: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """out[i] = sum of weight[e] * rows[index[e]] over the entries e in start[i] .. start[i + 1] - 1."""
    return embedding_bag(index, rows, start[:-1], mode="sum", per_sample_weights=weight)


def _offsets(index: Tensor, size: int) -> Tensor:
    counts = torch.bincount(index, minlength=size)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
