"""What a model's predictions lose when its activations are replaced by a crosscoder's reconstruction (METHODS 5).

    scores = splice(crosscoder, rows, 1, model, sequences, training_mean(crosscoder, rows))
    scores.recovered_zero       # (L_zero - L_spliced) / (L_zero - L_clean): 1 is nothing lost
    scores.kl                   # KL(clean || spliced), nats a token

All that differs between the four passes is the rows that count: those that do not (the first token, massive
activations) stay the model's own in every one of them, and only predictions made at replaced rows are scored.
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
from diptych.crosscoder.architecture import Crosscoder
from diptych.crosscoder.evaluation.encoded import encoded_blocks, training_mean
from diptych.models import patching
from diptych.runtime import logs
from diptych.storage import artifacts

BATCH_TOKENS = 512
"""Tokens of one forward pass, padding included: logits of large vocabularies fit."""
LEAST_LOSS = 0.01
"""Nats: an ablation that costs less says nothing about what is recovered (METHODS 5)."""


@dataclass(frozen=True)
class Spliced:
    """Mean losses in nats over the predictions made at replaced rows of one model.

    Attributes:
        n: predictions scored.
        clean, spliced, zero, mean: cross-entropy with the model's own rows, the reconstruction, 0, the rows' mean.
        kl: KL(clean || spliced).
    """

    n: int
    clean: float
    spliced: float
    zero: float
    mean: float
    kl: float

    def recovered(self, ablated: float) -> float:
        """(L_ablated - L_spliced) / (L_ablated - L_clean); NaN where the ablation costs less than .01 nat."""
        cost = ablated - self.clean
        return (ablated - self.spliced) / cost if abs(cost) >= LEAST_LOSS else math.nan

    def numbers(self) -> dict[str, float]:
        """All of it by name."""
        recovered = {"recovered_zero": self.recovered(self.zero), "recovered_mean": self.recovered(self.mean)}
        return asdict(self) | recovered


def measure(
    crosscoder: Crosscoder,
    rows: Rows,
    models: Sequence[Mapping[str, str | Path]],
    site: str,
    *,
    n_tokens: int,
) -> list[dict[str, float]]:
    """Losses of each model on about `n_tokens` tokens of fold 0, by name (see `Spliced`).

    Args:
        crosscoder: on its device, where the models run too.
        rows: the rows of its models.
        models: for each its `directory`, its `tokens` and `shard`, an activation file, which says how its rows were
            computed.
        site: the site that is replaced.
        n_tokens: of whole sequences spread over the documents of fold 0.
    """
    losses, mean_D = [], training_mean(crosscoder, rows)
    for model, index in enumerate(models):
        with artifacts.read(index["shard"], "activations") as file:
            hook = artifacts.read_json(file, "hooks")[site]
            dtype = artifacts.read_json(file, "compute_dtype")
        text = Sequences.held_out(index["tokens"], rows, model, n_tokens)
        language_model = patching.load(index["directory"], hook, dtype, crosscoder.mean.device)
        scores = splice(crosscoder, rows, model, language_model, text, mean_D)
        logs.logger.info(
            "%s: %d predictions, loss %.3f, spliced %.3f, KL %.3f",
            Path(index["directory"]).name, scores.n, scores.clean, scores.spliced, scores.kl,
        )  # fmt: skip
        losses.append(scores.numbers())
    return losses


@dataclass(frozen=True)
class Sequences:
    """Whole sequences of one model's tokens, and the rows in them that count.

    Attributes:
        ids: token ids of each sequence.
        row: for each sequence int64 [length], which of the Rows' rows each token is; -1 for rows that do not count.
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
        every = np.flatnonzero(counted & (np.diff(start) > 1))
        mean_length = float(np.diff(start)[every].mean()) if len(every) else 1.0
        n_sequences = min(len(every), max(1, round(n_tokens / mean_length)))
        spread = every[np.unique(np.linspace(0, len(every) - 1, n_sequences).astype(int))] if len(every) else every
        spans = [slice(start[i], start[i + 1]) for i in spread]
        return cls([token[span] for span in spans], [row_of_token[span] for span in spans])

    def batches(self) -> Iterator[tuple[Tensor, IntArray, Tensor]]:
        """Token ids, rows and next tokens [b, longest], sequences of like length together.

        Padding stands on the right: token 0, row -1. The next token is -1 where none is scored.
        """
        order = sorted(range(len(self.ids)), key=lambda i: -len(self.ids[i]))
        while order:
            longest = len(self.ids[order[0]])
            batch, order = order[: max(1, BATCH_TOKENS // longest)], order[max(1, BATCH_TOKENS // longest) :]
            ids = np.zeros((len(batch), longest), dtype=np.int64)
            row, target = np.full_like(ids, -1), np.full_like(ids, -1)
            for j, i in enumerate(batch):
                length = len(self.ids[i])
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
