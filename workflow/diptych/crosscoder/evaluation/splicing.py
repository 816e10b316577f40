"""Cross-entropy of a model whose activations are replaced by a crosscoder's reconstruction (METHODS 5).

    scores = splice(crosscoder, rows, 1, model, sequences, training_mean(crosscoder, rows))
    scores.recovered_zero       # (L_zero - L_spliced) / (L_zero - L_clean): 1: no loss
    scores.kl                   # KL(clean || spliced), nats per token

Only valid rows are replaced: others (the first token, massive activations) keep the model's activations in all four
passes, and only predictions at replaced rows are scored.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, nll_loss

from diptych.activations.rows import IntArray, Rows
from diptych.crosscoder.evaluation.encoded import encoded_blocks, training_mean
from diptych.models import patching
from diptych.models.batches import grouped
from diptych.models.placement import Devices
from diptych.runtime import logs
from diptych.sparse_coding.architecture import Crosscoder
from diptych.storage import artifacts

BATCH_TOKENS = 512
"""Tokens per forward pass, padding included: few enough for the logits of large vocabularies."""
LEAST_LOSS = 0.01
"""Nats: the recovered share of an ablation that costs less is not meaningful (METHODS 5)."""


@dataclass(frozen=True)
class Spliced:
    """Mean losses of one model in nats over the predictions at replaced rows.

    Attributes:
        n: number of predictions.
        clean, spliced, zero, mean: cross-entropy with the model's activations, the reconstruction, 0, and their mean.
        kl: KL(clean || spliced).
    """

    n: int
    clean: float
    spliced: float
    zero: float
    mean: float
    kl: float

    def recovered(self, ablated: float) -> float:
        """(L_ablated - L_spliced) / (L_ablated - L_clean); NaN if the ablation costs less than .01 nat."""
        cost = ablated - self.clean
        return (ablated - self.spliced) / cost if abs(cost) >= LEAST_LOSS else math.nan

    def numbers(self) -> dict[str, float]:
        """The attributes and recovered shares by name."""
        recovered = {"recovered_zero": self.recovered(self.zero), "recovered_mean": self.recovered(self.mean)}
        return asdict(self) | recovered


def measure(
    crosscoder: Crosscoder,
    rows: Rows,
    models: Sequence[Mapping[str, str | Path]],
    site: str,
    *,
    n_tokens: int,
    device: Devices = "cpu",
) -> list[dict[str, float]]:
    """Losses of each model on about `n_tokens` tokens of fold 0, by name (`Spliced.numbers`).

    Args:
        crosscoder: on the first device.
        rows: the rows of its models.
        models: for each its `directory`, `tokens` and `shard`, an activation file from which the hook and dtype of its
            rows are read.
        site: the site that is replaced.
        n_tokens: approximate number, in whole sequences spread over the documents of fold 0.
        device: a torch device, or those that each model is spread over.
    """
    losses, mean_D = [], training_mean(crosscoder, rows)
    for index, model in enumerate(models):
        with artifacts.read(model["shard"], "activations") as file:
            hook = artifacts.read_json(file, "hooks")[site]
            dtype = artifacts.read_json(file, "compute_dtype")
        text = Sequences.held_out(model["tokens"], rows, index, n_tokens)
        language_model = patching.load(model["directory"], hook, dtype, device)
        scores = splice(crosscoder, rows, index, language_model, text, mean_D)
        logs.logger.info(
            "%s: %d predictions, loss %.3f, spliced %.3f, KL %.3f",
            Path(model["directory"]).name, scores.n, scores.clean, scores.spliced, scores.kl,
        )  # fmt: skip
        losses.append(scores.numbers())
    return losses


@dataclass(frozen=True)
class Sequences:
    """Whole sequences of one model's tokens, and the row numbers of their valid tokens.

    Attributes:
        ids: token ids of each sequence.
        row: for each sequence int64 [length], the row number of each token in the `Rows`; -1 if it is not valid.
    """

    ids: list[IntArray]
    row: list[IntArray]

    @classmethod
    def held_out(cls, token_file: str | Path, rows: Rows, model: int, n_tokens: int) -> "Sequences":
        """About `n_tokens` tokens of the sequences with rows of fold 0, spread evenly over them."""
        with artifacts.read(token_file, "tokens") as file:
            start, token = file["sequences/start"][:], file["token"][:].astype(np.int64)
        row_of_token = np.full(len(token), -1, dtype=np.int64)
        held_out = np.flatnonzero(rows.fold == 0)
        row_of_token[rows.token_row[model, held_out]] = held_out
        counted = np.add.reduceat(row_of_token >= 0, start[:-1]) > 0
        usable = np.flatnonzero(counted & (np.diff(start) > 1))
        mean_length = float(np.diff(start)[usable].mean()) if len(usable) else 1.0
        n_sequences = min(len(usable), max(1, round(n_tokens / mean_length)))
        spread = usable[np.unique(np.linspace(0, len(usable) - 1, n_sequences).astype(int))] if len(usable) else usable
        spans = [slice(start[i], start[i + 1]) for i in spread]
        return cls([token[span] for span in spans], [row_of_token[span] for span in spans])

    def batches(self) -> Iterator[tuple[Tensor, IntArray, Tensor]]:
        """Token ids, rows and next tokens [b, longest], in batches of sequences of similar length.

        Padding is on the right: token 0, row -1. The next token is -1 where no prediction is scored.
        """
        lengths = np.array([len(ids) for ids in self.ids], dtype=np.int64)
        for batch in grouped(lengths, BATCH_TOKENS):
            ids = np.zeros((len(batch), int(lengths[batch[0]])), dtype=np.int64)
            row, target = np.full_like(ids, -1), np.full_like(ids, -1)
            for j, i in enumerate(batch):
                length = int(lengths[i])
                ids[j, :length], row[j, :length] = self.ids[i], self.row[i]
                target[j, : length - 1] = np.where(self.row[i][:-1] >= 0, self.ids[i][1:], -1)
            yield torch.from_numpy(ids), row, torch.from_numpy(target)


@torch.inference_mode()
def splice(
    crosscoder: Crosscoder,
    rows: Rows,
    model: int,
    language_model: patching.PatchedModel,
    text: Sequences,
    mean_D: Tensor,
) -> Spliced:
    """Run model number `model` as it is, with its rows reconstructed, set to 0, and set to their part of `mean_D`."""
    device = crosscoder.mean.device
    mean_d = crosscoder.per_model(mean_D)[model]
    totals, n = dict.fromkeys(("clean", "spliced", "zero", "mean", "kl"), 0.0), 0
    for ids, row, target in logs.progress(list(text.batches()), "splice", unit="batch"):
        ids, scored, target = ids.to(device), (target >= 0).to(device), target[target >= 0].to(device)
        clean, own = language_model.clean(ids)
        log_p = log_softmax(clean[scored].float(), dim=-1)
        totals["clean"] += float(nll_loss(log_p, target, reduction="sum"))
        for name, values in {
            "spliced": _reconstructions(crosscoder, rows, model, row[row >= 0]),
            "zero": torch.zeros_like(mean_d),
            "mean": mean_d,
        }.items():
            replacement = own.clone()
            replacement[torch.from_numpy(row >= 0).to(device)] = values.to(own.dtype)
            log_q = log_softmax(language_model.patched(ids, replacement)[scored].float(), dim=-1)
            totals[name] += float(nll_loss(log_q, target, reduction="sum"))
            if name == "spliced":
                totals["kl"] += float(kl_div(log_q, log_p, log_target=True, reduction="sum"))
        n += len(target)
    return Spliced(n=n, **{name: total / n if n else math.nan for name, total in totals.items()})


def _reconstructions(crosscoder: Crosscoder, rows: Rows, model: int, index: IntArray) -> Tensor:
    """x_hat of one model in raw units [len(index), d]."""
    blocks = [block.x_hat_BD for block in encoded_blocks(crosscoder, rows, index)]
    raw_BD = torch.cat(blocks) / crosscoder.coordinate_scale + crosscoder.mean
    return crosscoder.per_model(raw_BD)[model]
