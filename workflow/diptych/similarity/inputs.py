"""Inputs of a comparison of feature spaces: decoder rows, correlations and top tokens of the matched pairs.

    pairs = paired_features("pairing.h5", sae_A, sae_B, "linear_map.h5", "correlation.h5", codes_A, codes_B)
    pairs.x[i], pairs.y[i], pairs.rho[i]      # decoder rows and held-out correlation of pair i

The pairing stores the top tokens of each latent and the held-out correlation of each pair; the decoder rows come from
the dictionaries.
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

GEOMETRIC_SCORES = ("cosine", "euclidean", "mean")
"""Scores of a pairing that use decoder rows: with them, geometric similarity is circular."""


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
    selection: Selection | None = None,
) -> Pairs:
    """The matched pairs of an artifact of kind "pairing" (METHODS 3.2), in its order.

    Args:
        pairing_path: the artifact of kind "pairing".
        dictionary_a: A's dictionary.
        dictionary_b: B's.
        linear_map_path: its best map takes A's decoder rows to B's space, for MMCS.
        correlation_path: has the split of documents into halves; `codes` are of the held-out half.
        features_a: feature shards of A's dictionary on A.
        features_b: those of B's dictionary on B.
        alignment: the aligned rows of two tokenizers.
        selection: which of A's rows are compared; None for all.
    """
    with artifacts.read(pairing_path, "pairing") as file:
        i, j, rho = matched_pairs(file)
        tokens = [top_tokens(file, side, latents) for side, latents in (("a", i), ("b", j))]
        circular = artifacts.read_json(file, "summary")["score"] in GEOMETRIC_SCORES
    with artifacts.read(linear_map_path, "linear_map") as file:
        slope = affine.load(file, "forward").slope
    a, b = codes.common_rows(codes.read(features_a), codes.read(features_b), codes.read_alignment(alignment), selection)
    is_held_out = stage.read(correlation_path).halves.of(a.document) == 1
    x = dictionary_a.W_dec[i].astype(np.float64)
    return Pairs(
        x=x,
        y=dictionary_b.W_dec[j].astype(np.float64),
        rho=rho,
        mapped=x @ slope,
        tokens_a=tokens[0],
        tokens_b=tokens[1],
        codes=(a.csr[is_held_out][:, i], b.csr[is_held_out][:, j]),
        circular=circular,
    )


def matched_pairs(file: h5py.File) -> tuple[IntArray, IntArray, IntArray]:
    """Latents of A, latents of B and held-out correlation [p] of the matched pairs of an open pairing artifact."""
    table = artifacts.read_table(file, "pairs")
    is_matched = table["outcome"] == artifacts.read_json(file, "statuses").index("matched")
    return table["a"][is_matched], table["b"][is_matched], table["rho_held_out"][is_matched]


def top_tokens(file: h5py.File, side: str, latents: IntArray) -> list[list[str]]:
    """Top tokens of each of one side's `latents`, best first, from an open pairing artifact."""
    texts = artifacts.read_strings(file, f"latents_{side}/top_tokens")
    return [texts[latent].split("\t") if texts[latent] else [] for latent in latents.tolist()]
