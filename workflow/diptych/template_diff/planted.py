"""A planted change at template tokens, to know whether a comparison would have seen one.

A dictionary that was trained on other text may say little at the template's tokens, and a few prompts may be too few.
So every template diff is also run on a change that we know: A's own activations, at each role, moved along the decoder
row of one latent that seldom fires there, in a random half of the prompts:

    x'_i = x_i + size * median ||x|| * d_j          for i in the chosen half, x'_i = x_i elsewhere

The moved rows go through the dictionary again and are compared with A's. "No difference found" may be said only if the
planted latents are written down (`verdicts`). No forward pass is needed; what the test covers is everything behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.activations.rows import Rows, in_memory
from diptych.dictionaries import encoding
from diptych.runtime import logs
from diptych.template_diff import codes as template_codes
from diptych.template_diff.codes import Codes

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Planted:
    """A beside A with a planted change.

    Attributes:
        codes: `a` are A's codes, `b` those of the changed rows.
        latents: role -> the latent along whose decoder row A was moved.
        size: of the change, in median norms of the role's rows.
    """

    codes: Codes
    latents: Mapping[str, int]
    size: float

    def truth(self) -> dict[str, Any]:
        """What was planted, JSON-able."""
        return {"latents": dict(self.latents), "size": self.size}


def plant(
    codes: Codes, rows: Rows, dictionary: encoding.Dictionary, *, size: float, seed: int, device: str = "cpu"
) -> Planted:
    """Move A's rows at every role along one latent each, in half of the prompts.

    Args:
        codes: read by `template_codes.read`; only A's side is used.
        rows: A's rows at the dictionary's site.
        dictionary: the one that made the codes.
        size: in median norms of the rows at the role.
        seed: of the prompts and the latents.
        device: where the dictionary runs.
    """
    rng = np.random.default_rng(seed)
    live = np.unique(np.concatenate([side[role].indices for side in (codes.a, codes.b) for role in codes.roles]))
    moved, latents = {}, {}
    for role in codes.roles:
        prompts = np.sort(rng.permutation(len(codes))[: max(1, len(codes) // 2)])
        latents[role] = _seldom(codes.a[role], live, rng)
        decoder = dictionary.W_dec[latents[role]]
        moved[role] = _moved(codes, role, prompts, rows, dictionary, size * decoder / np.linalg.norm(decoder), device)
    logs.logger.info("planted %s, %.2g median norms in half of the prompts", latents, size)
    changed = Codes(
        codes.a, moved, codes.prompts, codes.source, codes.fold, codes.sources, codes.token_rows, codes.units
    )
    return Planted(changed, latents, size)


def _seldom(codes: sparse.csr_array, live: IntArray, rng: np.random.Generator) -> int:
    """One of the latents that fire at some role (`live`; any, if none does) and least often here."""
    firing = np.bincount(codes.indices[codes.data > 0], minlength=codes.shape[1])
    among = live if len(live) else np.arange(codes.shape[1])
    return int(rng.choice(among[firing[among] == firing[among].min()]))


def _moved(
    codes: Codes,
    role: str,
    prompts: IntArray,
    rows: Rows,
    dictionary: encoding.Dictionary,
    direction: npt.NDArray[np.float32],
    device: str,
) -> sparse.csr_array:
    """A's codes at a role, those of the `prompts` prompts made anew from rows moved by `direction` x median norm."""
    at = np.searchsorted(rows.token_row[0], codes.token_rows[role])
    x = rows.take(at).x[0]
    mine = np.isin(codes.units[role], prompts)
    shifted = x[mine] + direction * np.median(np.linalg.norm(x, axis=1)).astype(np.float32)
    unit = np.searchsorted(prompts, codes.units[role][mine])
    again = encoding.encode_rows(in_memory([shifted], unit), dictionary, device=device).csr
    anew = template_codes.maximum_by_unit(sparse.csr_array(again), unit, len(prompts))
    source = np.arange(len(codes))
    source[prompts] = len(codes) + np.arange(len(prompts))
    stacked: Any = sparse.vstack([codes.a[role], anew], format="csr")
    return sparse.csr_array(stacked[source])
