"""The code of k-sparse objectives as a list of its non-zero entries, with exact gradients.

A dense training step multiplies the code [B, F] with the decoder and, going back, four matrices of that shape,
although all but B * k entries are zero. Here only the selected entries are decoded and only their gradients
computed; what is left of the dense work is one product, the encoder's:

    chosen = selection_from_mask(score_BF >= cut)
    f = encode(z_BD, W_enc, b_enc, chosen, product_BF)  # [nnz], differentiable
    x_hat_BD = decode(f, W_dec, chosen)                 # differentiable

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
    """Which entries of a [B, F] matrix are kept, in row order.

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
        """Where each row's entries begin, [B + 1]."""
        return _starts(self.row, self.shape[0])

    @cached_property
    def latent_start(self) -> Tensor:
        """Where each latent's entries begin once sorted by latent, [F + 1]."""
        return _starts(self.latent, self.shape[1])

    @cached_property
    def by_latent(self) -> Tensor:
        """The order that sorts the entries by latent, rows increasing within a latent, [nnz]."""
        if self.latent.device.type == "cpu" and self.shape[1] <= 2**16:  # NumPy sorts 16-bit keys by radix
            order = np.argsort(self.latent.numpy().astype(np.uint16), kind="stable")
            return torch.from_numpy(order)
        return self.latent.argsort(stable=True)

    @cached_property
    def row_by_latent(self) -> Tensor:
        """The row of each entry once sorted by latent, [nnz]."""
        return self.row[self.by_latent]

    def within(self, first: int, last: int) -> tuple["Selection", Tensor]:
        """The entries whose latent is in first .. last - 1, and where they stand among all entries."""
        kept = ((self.latent >= first) & (self.latent < last)).nonzero()[:, 0]
        return Selection(self.row[kept], self.latent[kept], self.shape), kept


def selection_from_flat(flat: Tensor, shape: tuple[int, int]) -> Selection:
    """Entries given by increasing positions in the flattened matrix."""
    row = torch.div(flat, shape[1], rounding_mode="floor")
    return Selection(row, flat - row * shape[1], shape)


def positions(mask: Tensor) -> Tensor:
    """Increasing positions of the true entries of a flattened boolean matrix."""
    if mask.device.type == "cpu":  # several times faster than torch.nonzero
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]


def encode(z_BD: Tensor, W_enc: Tensor, b_enc: Tensor, chosen: Selection, product_BF: Tensor) -> Tensor:
    """The chosen entries [nnz] of z W_enc^T + b_enc, differentiable in the encoder.

    `product_BF` is z W_enc^T, already computed (the bias is added to the chosen entries alone).
    """
    values: Tensor = _Encode.apply(z_BD, W_enc, b_enc, chosen, product_BF)  # type: ignore[no-untyped-call]
    return values


def decode(f: Tensor, W_dec: Tensor, chosen: Selection) -> Tensor:
    """f W_dec [B, D] for the code whose chosen entries are f [nnz]; differentiable in both."""
    x_hat_BD: Tensor = _Decode.apply(f, W_dec, chosen)  # type: ignore[no-untyped-call]
    return x_hat_BD


def sum_by_latent(f: Tensor, rows_BD: Tensor, chosen: Selection) -> Tensor:
    """f^T rows [F, D] for the code whose chosen entries are f [nnz]."""
    return _gather_sum(rows_BD, chosen.row_by_latent, chosen.latent_start, f[chosen.by_latent])


def entries_of_product(left: Tensor, right: Tensor, chosen: Selection) -> Tensor:
    """The chosen entries of left @ right, [nnz]."""
    zeros = torch.zeros(len(chosen.latent), dtype=left.dtype, device=left.device)
    with warnings.catch_warnings():  # "beta state", once a process
        warnings.simplefilter("ignore", UserWarning)
        pattern = torch.sparse_csr_tensor(chosen.row_start, chosen.latent, zeros, chosen.shape, check_invariants=False)
    entries: Tensor = torch.sparse.sampled_addmm(pattern, left, right, beta=0.0).values()
    return entries


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BD: Tensor, W_enc: Tensor, b_enc: Tensor, chosen: Selection, product_BF: Tensor) -> Tensor:
        ctx.save_for_backward(z_BD)
        ctx.chosen = chosen
        return product_BF.view(-1)[chosen.row * chosen.shape[1] + chosen.latent] + b_enc[chosen.latent]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, None, None]:
        (z_BD,) = ctx.saved_tensors
        grad, chosen = grads[0], ctx.chosen
        grad_W_enc = sum_by_latent(grad, z_BD, chosen)
        grad_b_enc = torch.zeros(chosen.shape[1], dtype=grad.dtype, device=grad.device)
        return None, grad_W_enc, grad_b_enc.index_add_(0, chosen.latent, grad), None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, W_dec: Tensor, chosen: Selection) -> Tensor:
        ctx.save_for_backward(f, W_dec)
        ctx.chosen = chosen
        return _gather_sum(W_dec, chosen.latent, chosen.row_start, f)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        f, W_dec = ctx.saved_tensors
        grad_BD, chosen = grads[0].contiguous(), ctx.chosen
        grad_f = entries_of_product(grad_BD, W_dec.T, chosen)
        grad_W_dec = sum_by_latent(f, grad_BD, chosen)
        return grad_f, grad_W_dec, None


def _gather_sum(rows: Tensor, index: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """out[i] = sum of weight[e] * rows[index[e]] over the entries e in start[i] .. start[i + 1] - 1."""
    return embedding_bag(index, rows, start[:-1], mode="sum", per_sample_weights=weight)


def _starts(index: Tensor, size: int) -> Tensor:
    counts = torch.bincount(index, minlength=size)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
