"""The threshold of a BatchTopK crosscoder on single rows: the score that k latents a row reach on average.

    threshold = threshold_of(crosscoder, blocks, n_rows)     # blocks: normalised rows [b, D]

In a batch of B rows BatchTopK keeps the B * k largest scores, so a latent's code depends on the other rows. The least
of the n * k largest scores of n rows is the same cut for a row alone.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from diptych.sparse_coding import sparse
from diptych.sparse_coding.architecture import Crosscoder


@torch.no_grad()
def threshold_of(crosscoder: Crosscoder, blocks: Iterable[Tensor], n_rows: int) -> float:
    """The least of the n_rows * k largest positive scores of some rows; 0 if there are fewer.

    Args:
        crosscoder: with activation `threshold` and its k.
        blocks: its normalised rows [b, D] on its device, n_rows altogether.
        n_rows: their number, n.
    """
    weight_F, n_kept = crosscoder.score_weights(), n_rows * crosscoder.architecture.k
    scores = torch.zeros(0, device=weight_F.device)
    lowest = 0.0
    for z_BD in blocks:
        score_BF = crosscoder.pre_activations(z_BD).relu() * weight_F
        scores = torch.cat([scores, score_BF.view(-1)[sparse.positions(score_BF > lowest)]])
        if len(scores) > n_kept:
            scores = scores.topk(n_kept, sorted=False).values
            lowest = float(scores.min())
    return lowest
