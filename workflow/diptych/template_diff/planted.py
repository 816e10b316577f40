"""Planted changes at template tokens, the positive control of a template diff.

A dictionary trained on other text may describe the template's tokens badly, and the prompts may be too few. Every
template diff is therefore also run on a known change: at each role, A's activations are moved along the decoder row of
a latent that seldom fires there, in a random half of the prompts:

    x'_i = x_i + size * median ||x|| * d_j          for i in the random half, x'_i = x_i elsewhere

The moved rows are encoded by the dictionary and compared with A's. "No difference found" is concluded only if the
planted latents are among the findings. No forward pass is needed; the test covers everything after it.
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
    """Codes of A and of A with a planted change.

    Attributes:
        codes: `a` are A's codes, `b` those of the changed rows.
        latents: role -> the latent along whose decoder row A was moved.
        size: of the change, in median norms of the role's rows.
    """

    codes: Codes
    latents: Mapping[str, int]
    size: float

    def truth(self) -> dict[str, Any]:
        """The planted latents and the size of the change, as JSON data."""
        return {"latents": dict(self.latents), "size": self.size}


def plant(
    codes: Codes, rows: Rows, dictionary: encoding.Dictionary, *, size: float, seed: int, device: str = "cpu"
) -> Planted:
    """Plant a change: move A's rows at each role along one latent, in a random half of the prompts.

    Args:
        codes: read by `codes.read`; A's are changed.
        rows: A's rows at the dictionary's site.
        dictionary: the dictionary of the codes.
        size: in median norms of the rows at the role.
        seed: of the prompts and the latents.
        device: where the dictionary runs.
    """
    rng = np.random.default_rng(seed)
    live = np.unique(np.concatenate([side[role].indices for side in (codes.a, codes.b) for role in codes.roles]))
    moved_codes, latents = {}, {}
    for role in codes.roles:
        prompts = np.sort(rng.permutation(len(codes))[: max(1, len(codes) // 2)])
        latents[role] = _seldom_firing(codes.a[role], live, rng)
        decoder = dictionary.W_dec[latents[role]]
        direction = size * decoder / np.linalg.norm(decoder)
        moved_codes[role] = _moved_codes(codes, role, prompts, rows, dictionary, direction, device)
    logs.logger.info("planted %s, %.2g median norms in half of the prompts", latents, size)
    changed = Codes(
        codes.a, moved_codes, codes.prompts, codes.source, codes.fold, codes.sources, codes.token_rows, codes.units
    )
    return Planted(changed, latents, size)


def _seldom_firing(codes: sparse.csr_array, live: IntArray, rng: np.random.Generator) -> int:
    """A random one of the latents that fire least often in `codes`, among those that fire at some role (`live`)."""
    firing = np.bincount(codes.indices[codes.data > 0], minlength=codes.shape[1])
    pool = live if len(live) else np.arange(codes.shape[1])
    return int(rng.choice(pool[firing[pool] == firing[pool].min()]))


def _moved_codes(
    codes: Codes,
    role: str,
    prompts: IntArray,
    rows: Rows,
    dictionary: encoding.Dictionary,
    direction: npt.NDArray[np.float32],
    device: str,
) -> sparse.csr_array:
    """A's codes at a role, with those of `prompts` encoded from rows moved by `direction` x median norm."""
    index = np.searchsorted(rows.token_row[0], codes.token_rows[role])
    x = rows.take(index).x[0]
    is_moved = np.isin(codes.units[role], prompts)
    shifted = x[is_moved] + direction * np.median(np.linalg.norm(x, axis=1)).astype(np.float32)
    unit = np.searchsorted(prompts, codes.units[role][is_moved])
    encoded = encoding.encode_rows(in_memory([shifted], unit), dictionary, device=device).csr
    shifted_codes = template_codes.maximum_by_unit(sparse.csr_array(encoded), unit, len(prompts))
    source = np.arange(len(codes))
    source[prompts] = len(codes) + np.arange(len(prompts))
    stacked: Any = sparse.vstack([codes.a[role], shifted_codes], format="csr")
    return sparse.csr_array(stacked[source])
