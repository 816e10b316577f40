"""Two-dimensional UMAP maps of the paired features, one per model.

UMAP is fitted separately to the decoder rows of A's feature and of B's feature of each pair. If the models arrange
their features alike, neighbours on one map are neighbours on the other; the report links the two panels.

    draw(cells, "results/maps.h5", spec=spec, neighbours=15, points=2000)
    read("results/maps.h5", "tuned", "middle", "middle").a      # [p, 2]

Maps are for looking only: distances on them mean little, and no score uses them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.dictionaries import sae
from diptych.runtime import logs
from diptych.similarity import inputs
from diptych.similarity.measures.formulas import IntArray
from diptych.storage import artifacts

FloatArray = npt.NDArray[np.float32]
MIN_POINTS = 12
"""No map is drawn of fewer pairs: UMAP's spectral initialisation needs more points than dimensions."""


@dataclass(frozen=True)
class FeatureMap:
    """Map coordinates of the paired features of one cell.

    Attributes:
        a: float32 [p, 2], A's features.
        b: float32 [p, 2], B's features; row i is paired with row i of `a`.
        latent_a: int64 [p], A's latents.
        latent_b: int64 [p], B's.
        rho: float64 [p], held-out correlation of each pair.
        tokens_a: top tokens of each of A's latents.
        tokens_b: top tokens of each of B's.
    """

    a: FloatArray
    b: FloatArray
    latent_a: IntArray
    latent_b: IntArray
    rho: npt.NDArray[np.float64]
    tokens_a: list[list[str]]
    tokens_b: list[list[str]]


def draw(
    cells: Sequence[Mapping[str, Any]],
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    neighbours: int = 15,
    points: int = 2000,
    seed: int = 0,
) -> None:
    """Stage `map_spaces`: compute both maps of every cell and write them to an artifact of kind "maps".

    One job for all cells, because importing UMAP is slow.

    Args:
        cells: each {name, site_a, site_b, files: {pairing, dictionary_a, dictionary_b}}, the dictionaries' manifests.
        out: path of the artifact.
        spec: stored with the artifact.
        neighbours: UMAP's n_neighbors, reduced to a third of the points where that is less.
        points: at most so many pairs per map, those of highest held-out correlation.
        seed: of UMAP.
    """
    with artifacts.create(out, "maps", spec) as file:
        for cell in logs.progress(cells, "maps", unit="cell"):
            group = _group(cell["name"], cell["site_a"], cell["site_b"])
            with artifacts.read(cell["files"]["pairing"], "pairing") as pairing:
                latent_a, latent_b, rho = inputs.matched_pairs(pairing)
                top = np.sort(np.argsort(-rho, kind="stable")[:points])
                columns = {"latent_a": latent_a[top], "latent_b": latent_b[top], "rho": rho[top]}
                for side in ("a", "b"):
                    top_tokens = inputs.top_tokens(pairing, side, columns[f"latent_{side}"])
                    columns[f"tokens_{side}"] = np.array(["\t".join(tokens) for tokens in top_tokens], dtype=object)
            file.table(f"{group}/pairs", columns)
            for side in ("a", "b"):
                decoder = sae.Decoder(Path(cell["files"][f"dictionary_{side}"]).parent)
                file.array(f"{group}/{side}", umap_layout(decoder.rows(columns[f"latent_{side}"]), neighbours, seed))


def umap_layout(rows: npt.NDArray[Any], neighbours: int, seed: int) -> FloatArray:
    """Centred UMAP coordinates, float32 [p, 2], of rows [p, d] by cosine; empty [0, 2] for fewer than `MIN_POINTS`."""
    if len(rows) < MIN_POINTS:
        return np.zeros((0, 2), dtype=np.float32)
    from umap import UMAP

    reducer = UMAP(metric="cosine", n_neighbors=min(neighbours, len(rows) // 3), random_state=seed, n_jobs=1)
    coordinates = np.asarray(reducer.fit_transform(rows), dtype=np.float32)
    centred: FloatArray = coordinates - coordinates.mean(axis=0)
    return centred


def read(path: str | Path, name: str, site_a: str, site_b: str) -> FeatureMap | None:
    """The maps of one cell; None if it has none."""
    with artifacts.read(path, "maps") as file:
        group = _group(name, site_a, site_b)
        if group not in file or not len(file[f"{group}/a"]):
            return None
        table = artifacts.read_table(file, f"{group}/pairs")
        tokens = {side: [text.split("\t") for text in table[f"tokens_{side}"]] for side in ("a", "b")}
        return FeatureMap(
            file[f"{group}/a"][:], file[f"{group}/b"][:], table["latent_a"], table["latent_b"], table["rho"],
            tokens["a"], tokens["b"],
        )  # fmt: skip


def _group(name: str, site_a: str, site_b: str) -> str:
    return f"{name}/{site_a}--{site_b}"
