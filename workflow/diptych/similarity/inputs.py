"""What a comparison of feature spaces is computed on: the decoder rows of the pairs that a pairing kept.

    pairs = paired_features("pairing.h5", sae_A, sae_B, "linear_map.h5", "correlation.h5", codes_A, codes_B)
    pairs.x[i], pairs.y[i], pairs.rho[i]      # decoder rows and held-out correlation of pair i

The pairing stores what each latent is called by (its top tokens) and how each pair correlates on documents that did
not choose it; the decoder rows come from the dictionaries.
"""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from diptych.affine_maps import affine
from diptych.correlation import stage
from diptych.dictionaries import codes
from diptych.dictionaries.encoding import Dictionary
from diptych.similarity.measures.formulas import IntArray
from diptych.similarity.measures.scores import Pairs
from diptych.storage import artifacts
from diptych.text.selection import Selection

GEOMETRIC = ("cosine", "euclidean", "mean")
"""Scores of a pairing that use decoder rows: geometric similarity would repeat how the pairs were chosen."""


def paired_features(
    pairing_path: str | Path,
    dictionary_a: Dictionary,
    dictionary_b: Dictionary,
    linear_map_path: str | Path,
    correlation_path: str | Path,
    features_a: Sequence[str | Path],
    features_b: Sequence[str | Path],
    *,
    alignment: str | Path | None = None,
    chosen: Selection | None = None,
) -> Pairs:
    """The matched pairs of an artifact of kind "pairing" (METHODS 3.2), in its order.

    Args:
        pairing_path: what `pairing.pair` wrote.
        dictionary_a: A's dictionary.
        dictionary_b: B's.
        linear_map_path: its best map carries A's rows to B's space, for MMCS.
        correlation_path: says which documents judged the pairs: the level of `rho` is computed on them.
        features_a: shards of A's dictionary on A.
        features_b: shards of B's on B.
        alignment: the aligned rows of two tokenizers.
        chosen: which of A's rows are compared; all if not given.
    """
    with artifacts.read(pairing_path, "pairing") as file:
        i, j, rho = matched(file)
        tokens = [top_tokens(file, side, which) for side, which in (("a", i), ("b", j))]
        circular = artifacts.read_json(file, "summary")["score"] in GEOMETRIC
    with artifacts.read(linear_map_path, "linear_map") as file:
        slope = affine.load(file, "forward").slope
    a, b = codes.common_rows(codes.read(features_a), codes.read(features_b), codes.read_alignment(alignment), chosen)
    judging = stage.read(correlation_path).halves.of(a.document) == 1
    x = dictionary_a.W_dec[i].astype(np.float64)
    return Pairs(
        x=x,
        y=dictionary_b.W_dec[j].astype(np.float64),
        rho=rho,
        mapped=x @ slope,
        tokens_a=tokens[0],
        tokens_b=tokens[1],
        codes=(a.csr[judging][:, i], b.csr[judging][:, j]),
        circular=circular,
    )


def matched(file: h5py.File) -> tuple[IntArray, IntArray, IntArray]:
    """Latents of A, latents of B and held-out correlation [p] of the pairs that an open pairing kept."""
    table = artifacts.read_table(file, "pairs")
    is_matched = table["outcome"] == artifacts.read_json(file, "statuses").index("matched")
    return table["a"][is_matched], table["b"][is_matched], table["rho_held_out"][is_matched]


def top_tokens(file: h5py.File, side: str, latents: IntArray) -> list[list[str]]:
    """The top tokens of some latents of one side, best first, from an open pairing."""
    texts = artifacts.read_strings(file, f"latents_{side}/top_tokens")
    return [texts[latent].split("\t") if texts[latent] else [] for latent in latents.tolist()]
