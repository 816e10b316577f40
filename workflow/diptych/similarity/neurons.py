"""MLP neurons as feature spaces, the baseline of a comparison of dictionaries.

Neuron j of an MLP fires with its inner activation and writes row j of W_out [d_mlp, d] into the residual stream, as
a latent fires with its code and writes its decoder row. If neurons of two models are as similar as their SAE features
are, the dictionaries have added nothing.

    W_out = [output_matrix(base_dir, site), output_matrix(tuned_dir, site)]
    pairs = paired_neurons(rows.stored([base, tuned]), W_out, ...)

Pairs are each other's best partner by correlation on one half of the documents; their correlation is computed on the
other half (METHODS 3.1). Unlike latents, neurons are not tested for whether they have a match at all.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diptych.activations.rows import Rows
from diptych.affine_maps import affine
from diptych.correlation import stage
from diptych.dictionaries.codes import Features
from diptych.models import pretrained
from diptych.models.sites import block_of, resolve_site
from diptych.runtime.errors import DiptychError
from diptych.similarity.measures.formulas import IntArray
from diptych.similarity.measures.scores import Pairs
from diptych.storage import artifacts
from diptych.text import contexts

FloatArray = npt.NDArray[np.float32]
OUTPUT_MATRIX = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)\.mlp\.(?:down_proj|c_proj|dense_4h_to_h)\.weight")
TOP_TOKENS = 5
BLOCK_ROWS = 8192


def output_matrix(directory: str | Path, site: str) -> FloatArray:
    """W_out [d_mlp, d] of the block of `site`: row j is what neuron j writes into the residual stream.

    Args:
        directory: a model's directory with safetensors files.
        site: of the neurons, such as blocks.3.mlp.hook_post.

    Raises:
        DiptychError: the block has no such matrix.
    """
    from safetensors import safe_open

    shape = pretrained.describe(directory)
    block = block_of(resolve_site(site, shape["n_layers"]))
    for path in sorted(Path(directory).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                match = OUTPUT_MATRIX.fullmatch(name)
                if match and int(match[1]) == block:
                    matrix: FloatArray = file.get_tensor(name).float().numpy()
                    # GPT-2 stores weights as [inputs, outputs], all others as [outputs, inputs].
                    return np.ascontiguousarray(matrix if matrix.shape[1] == shape["width"] else matrix.T)
    raise DiptychError(f"{directory}: no output matrix of the MLP of block {block} found; set neurons: false")


def paired_neurons(
    pair: Rows,
    output_matrices: Sequence[FloatArray],
    tokens: tuple[str | Path, str | Path],
    linear_map_path: str | Path,
    *,
    max_rows: int = 20_000,
    memory: int = 2**30,
    seed: int = 0,
) -> Pairs:
    """Neurons of A and B that are each other's best partner.

    Args:
        pair: rows of both models at the neurons' sites.
        output_matrices: W_out of A and of B.
        tokens: the token files of A and B.
        linear_map_path: of the residual sites; its best map takes A's rows to B's space, for MMCS.
        max_rows: at most so many token rows are used, of whole documents.
        memory: bytes for blocks of correlations, beside the activations themselves.
        seed: of the documents, and of their halves.

    Raises:
        DiptychError: a site and its W_out differ in their number of neurons.
    """
    index = sample_documents(pair, max_rows, seed)
    sides = [Features(_read(pair, index, side), pair.token_row[side][index], pair.document[index], pair.fold[index],
                      pair.source[index]) for side in (0, 1)]  # fmt: skip
    for side, matrix in zip(sides, output_matrices, strict=True):
        if side.n_features != len(matrix):
            raise DiptychError(f"neurons: {side.n_features} at the site, but W_out has {len(matrix)} rows")
    table = stage.correlate_features(sides[0], sides[1], k=1, seed=seed, memory=memory)
    best_b, best_a = table.a.partner[0, :, 0], table.b.partner[0, :, 0]
    i = np.flatnonzero(best_b >= 0)
    i = i[best_a[best_b[i]] == i]
    j = best_b[i]
    with artifacts.read(linear_map_path, "linear_map") as file:
        slope = affine.load(file, "forward").slope
    x = output_matrices[0][i].astype(np.float64)
    half = table.halves.of(sides[0].document)
    codes_a, codes_b = (
        np.asarray(side.codes)[half == 1][:, neurons] for side, neurons in zip(sides, (i, j), strict=True)
    )
    return Pairs(
        x=x,
        y=output_matrices[1][j].astype(np.float64),
        rho=table.a.held_out[0, i, 0],
        mapped=x @ slope,
        tokens_a=_top_tokens(sides[0], half >= 0, i, contexts.Text(tokens[0])),
        tokens_b=_top_tokens(sides[1], half >= 0, j, contexts.Text(tokens[1])),
        codes=(codes_a, codes_b),
    )


def sample_documents(pair: Rows, max_rows: int, seed: int) -> IntArray:
    """Row indices, ascending, of randomly drawn whole documents: at most `max_rows`, but at least one document."""
    documents, size = np.unique(pair.document, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(documents))
    selected = order[: max(1, int(np.searchsorted(np.cumsum(size[order]), max_rows, side="right")))]
    return np.flatnonzero(np.isin(pair.document, documents[selected]))


def _read(pair: Rows, index: IntArray, side: int) -> FloatArray:
    blocks = [pair.take(index[start : start + BLOCK_ROWS]).x[side] for start in range(0, len(index), BLOCK_ROWS)]
    return np.concatenate(blocks)


def _top_tokens(side: Features, rows: npt.NDArray[np.bool_], latents: IntArray, text: contexts.Text) -> list[list[str]]:
    """Tokens on which each neuron is most active, best first."""
    values = np.asarray(side.codes)[rows][:, latents]
    order = np.argsort(-values, axis=0, kind="stable")[:TOP_TOKENS]
    return [text.words(side.token_row[rows][order[:, k]]) for k in range(len(latents))]
