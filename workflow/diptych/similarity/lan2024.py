"""A published comparison of feature spaces (lan2024), reproduced with its errors.

`similarity: {compat: [lan2024]}` runs what the published code does, so that its printed numbers can be compared:

    hidden_states[l]     is the input of block l, but the dictionary was trained on its output (off by one)
    padding              is treated as text: no attention mask, no row excluded
    pre-activations      are correlated, not the sparse codes after the activation function
    first occurrence     each latent of B takes its best latent of A; if several take the same, the lowest keeps it
    one component        of each space is compared under the name SVCCA: random pairs give E|r| = sqrt(2/(pi p))
    p                    is the share of re-pairings that reach the score, without adding 1

    reproduce("models/small", "models/large", sae_A, sae_B, "tokens/web/small.h5", "lan2024.h5",
              spec=spec, site_a="blocks.2.hook_resid_post", site_b="blocks.5.hook_resid_post")

METHODS 3.3. Only the report reads the artifact, and labels it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diptych.dictionaries.sae import Dictionary
from diptych.models import pretrained
from diptych.models.batches import Sequences
from diptych.models.placement import Devices, first
from diptych.models.sites import block_of, resolve_site
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.similarity.measures import formulas, nulls
from diptych.similarity.measures.formulas import IntArray
from diptych.storage import artifacts

FloatArray = npt.NDArray[np.float32]
BATCH = 8
"""Sequences of one forward pass."""
MAX_ROWS = 100_000
"""At most so many rows are read, padding included; the published comparison read fewer."""
ENTRY_BYTES = 24
"""Peak bytes per correlation in `best_of_a`: float64 and temporary copies."""
NULL_ROWS = 2000
"""At most so many pairs for the null of RSA, the default of `rsa_null_rows`."""


@dataclass(frozen=True)
class Correlator:
    """Streaming correlations of two sets of dense columns.

    Attributes:
        pilot: means of the first batch [F_A], [F_B], subtracted before products so that float32 is precise enough.
        cross: sums of products, float32 [F_A, F_B].
        sums: column sums [F_A], [F_B], float64.
        squares: column sums of squares, likewise.
        rows: number of rows.
    """

    pilot: tuple[torch.Tensor, torch.Tensor]
    cross: torch.Tensor
    sums: tuple[torch.Tensor, torch.Tensor]
    squares: tuple[torch.Tensor, torch.Tensor]
    rows: int

    @classmethod
    def start(cls, z_A: torch.Tensor, z_B: torch.Tensor) -> "Correlator":
        """A correlator without rows, centred on the means of a first batch [n, F_A], [n, F_B]."""
        zeros = [torch.zeros(z.shape[1], dtype=torch.float64, device=z.device) for z in (z_A, z_B, z_A, z_B)]
        cross = torch.zeros(z_A.shape[1], z_B.shape[1], device=z_A.device)
        return cls((z_A.mean(0), z_B.mean(0)), cross, (zeros[0], zeros[1]), (zeros[2], zeros[3]), 0)

    def updated(self, z_A: torch.Tensor, z_B: torch.Tensor) -> "Correlator":
        """The correlator with another batch added; `cross` is updated in place."""
        x, y = z_A - self.pilot[0], z_B - self.pilot[1]
        self.cross.addmm_(x.T, y)
        sums = (self.sums[0] + x.double().sum(0), self.sums[1] + y.double().sum(0))
        squares = (self.squares[0] + x.double().square().sum(0), self.squares[1] + y.double().square().sum(0))
        return Correlator(self.pilot, self.cross, sums, squares, self.rows + len(x))

    def best_of_a(self, memory: int = 2**30) -> tuple[IntArray, FloatArray]:
        """For each column of B the column of A of highest correlation, and that correlation; constant columns have 0.

        Computed in blocks of A's columns that take at most `memory` bytes beside `cross`.
        """
        n = self.rows
        deviation = [
            (q / n - (s / n).square()).clamp_min(0).sqrt() for s, q in zip(self.sums, self.squares, strict=True)
        ]
        inverse = [torch.where(d > 0, 1 / d, 0.0) for d in deviation]
        mean = [total / n for total in self.sums]
        value = torch.full_like(mean[1], -torch.inf)
        index = torch.zeros(len(value), dtype=torch.int64, device=value.device)
        step = max(1, memory // (ENTRY_BYTES * len(value)))
        for start in range(0, len(mean[0]), step):
            rows = slice(start, start + step)
            rho = (self.cross[rows].double() / n).addr_(mean[0][rows], mean[1], alpha=-1)
            block_best = rho.mul_(inverse[0][rows, None]).mul_(inverse[1]).max(dim=0)
            better = block_best.values > value
            value, index = (
                torch.where(better, block_best.values, value),
                torch.where(better, block_best.indices + start, index),
            )
        return index.cpu().numpy(), value.float().cpu().numpy()


def first_occurrences(best: IntArray) -> tuple[IntArray, IntArray]:
    """Pairs (columns of A, columns of B) of each column of B with its best of A; of duplicates in `best`, the first."""
    a, b = np.unique(best, return_index=True)
    order = np.argsort(b)
    return a[order], b[order]


def reproduce(
    model_a: str | Path,
    model_b: str | Path,
    dictionary_a: Dictionary,
    dictionary_b: Dictionary,
    tokens: str | Path,
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    site_a: str,
    site_b: str,
    repairings: int = 1000,
    rsa_rows: int = 5000,
    seed: int = 0,
    memory: int = 2**30,
    device: Devices = "cpu",
) -> None:
    """Stage `reproduce_lan2024`: the published procedure on two models with one tokenizer (kind "lan2024").

    Args:
        model_a: directory of A.
        model_b: directory of B.
        dictionary_a: A's dictionary.
        dictionary_b: B's.
        tokens: the token file of both models.
        out: path of the artifact: table `scores` (measure, value, null_mean, p) and the numbers of pairs and rows.
        spec: stored with the artifact.
        site_a: the site that A's dictionary reads.
        site_b: that of B's.
        repairings: random re-pairings behind p.
        rsa_rows: pairs of RSA at most.
        seed: of the re-pairings.
        memory: bytes for blocks of correlations, beside the sums of products (4 bytes per pair of latents).
        device: a torch device, or those that each model is spread over.

    Raises:
        DiptychError: a site is not the residual stream after a block, or tokens exceed a model's vocabulary or context.
    """
    correlator: Correlator | None = None
    for z_A, z_B in _batches((model_a, model_b), (dictionary_a, dictionary_b), tokens, (site_a, site_b), device):
        correlator = (correlator or Correlator.start(z_A, z_B)).updated(z_A, z_B)
    assert correlator is not None
    best, rho = correlator.best_of_a(memory)
    a, b = first_occurrences(best)
    rng = np.random.default_rng(seed)
    scores = [("mean_rho", float(rho[b].mean()), float("nan"), float("nan"))]
    scores += _geometry(dictionary_a.W_dec[a], dictionary_b.W_dec[b], repairings, rsa_rows, rng)
    with artifacts.create(out, "lan2024", spec) as file:
        names, values, levels, p = zip(*scores, strict=True)
        columns = {
            "measure": np.array(names),
            "value": np.array(values),
            "null_mean": np.array(levels),
            "p": np.array(p),
        }
        file.table("scores", columns, nan="mean_rho: the published procedure gives it no level")
        file.json("counts", {"pairs": len(a), "rows": correlator.rows, "latents": dictionary_b.n_features})


def _geometry(
    x: FloatArray, y: FloatArray, repairings: int, rsa_rows: int, rng: np.random.Generator
) -> list[tuple[str, float, float, float]]:
    """(measure, value, mean of its null, p without the 1) of RSA and of the one-component score."""
    spaces = formulas.space(x), formulas.space(y)
    index = rng.permutation(len(x))[:rsa_rows]
    ranks = [formulas.distance_ranks(rows[index]) for rows in (x, y)]
    null_ranks = [formulas.distance_ranks(rows[index[:NULL_ROWS]]) for rows in (x, y)]
    scores = []
    for name, value, null in (
        ("rsa", formulas.rsa(*ranks), nulls.rsa_draws(null_ranks[0], null_ranks[1], repairings, rng)),
        ("svcca", formulas.one_component_score(*spaces), nulls.one_component_draws(*spaces, repairings, rng)),
    ):
        scores.append((name, value, float(null.mean()), float(np.mean(null >= value))))
    return scores


def _batches(
    directories: tuple[str | Path, str | Path],
    dictionaries: tuple[Dictionary, Dictionary],
    tokens: str | Path,
    sites: tuple[str, str],
    device: Devices,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pre-activations of both dictionaries on every position of padded batches."""
    sequences = Sequences.read(tokens)
    models = []
    for directory, site in zip(directories, sites, strict=True):
        shape = pretrained.describe(directory)
        sequences.check_fits(shape)
        models.append((pretrained.load(directory, device=device), _layer(site, shape["n_layers"])))
    longest = int(np.diff(sequences.start).max())
    n_sequences = min(len(sequences), max(1, MAX_ROWS // longest))
    for start in logs.progress(range(0, n_sequences, BATCH), "lan2024", unit="batch"):
        batch = sequences.batch(list(range(start, min(start + BATCH, n_sequences)))).ids
        ids = torch.from_numpy(np.pad(batch, ((0, 0), (0, longest - batch.shape[1])))).to(first(device))
        z = []
        with torch.inference_mode():
            for (model, layer), dictionary in zip(models, dictionaries, strict=True):
                states = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
                z.append(dictionary.pre_activations(states[layer].flatten(0, 1)))
        yield z[0], z[1]


def _layer(site: str, n_layers: int) -> int:
    """The published index into hidden_states for a site: the block's number, one too low for its output."""
    hook = resolve_site(site, n_layers)
    block = block_of(hook)
    if block is None or not hook.endswith("hook_resid_post"):
        raise DiptychError(f"similarity.compat: lan2024 reads hook_resid_post sites, {site!r} is {hook}; leave it out")
    return block
