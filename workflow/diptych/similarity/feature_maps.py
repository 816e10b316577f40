"""Two maps of the same paired features, one a model: which features lie near which, to look at.

UMAP lays out the decoder rows of A's side of each pair and, by itself, those of B's side. If the models arrange
their features alike, a neighbourhood on one map is a neighbourhood on the other; the report links the two panels.

    draw(cells, "results/maps.h5", spec=spec, neighbours=15, points=2000)
    read("results/maps.h5", "tuned", "middle", "middle").a      # [p, 2]

A map is a picture and no evidence: distances on it mean little, and the scores of `similarity` do not use it.
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
LEAST_POINTS = 12
"""Fewer pairs are no map: UMAP needs more points than dimensions to start from."""


@dataclass(frozen=True)
class FeatureMap:
    """The paired features of one cell on two maps.

    Attributes:
        a: float32 [p, 2], A's features.
        b: float32 [p, 2], B's; row i is the partner of row i of `a`.
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
    """Stage `map_spaces`: both maps of every cell, in an artifact of kind "maps". One job, because UMAP starts slowly.

    Args:
        cells: each {name, site_a, site_b, files: {pairing, dictionary_a, dictionary_b}}, dictionaries by manifest.
        out: path of the artifact.
        spec: what it was made from.
        neighbours: that UMAP looks at; at most a third of the points.
        points: pairs on a map at most, those of the highest held-out correlation.
        seed: of the layout.
    """
    with artifacts.create(out, "maps", spec) as file:
        for cell in logs.progress(cells, "maps", unit="cell"):
            group = _group(cell["name"], cell["site_a"], cell["site_b"])
            with artifacts.read(cell["files"]["pairing"], "pairing") as pairing:
                i, j, rho = inputs.matched(pairing)
                best = np.sort(np.argsort(-rho, kind="stable")[:points])
                columns = {"latent_a": i[best], "latent_b": j[best], "rho": rho[best]}
                for side in ("a", "b"):
                    named = inputs.top_tokens(pairing, side, columns[f"latent_{side}"])
                    columns[f"tokens_{side}"] = np.array(["\t".join(tokens) for tokens in named], dtype=object)
            file.table(f"{group}/pairs", columns)
            for side in ("a", "b"):
                rows = sae.load(Path(cell["files"][f"dictionary_{side}"]).parent).W_dec
                file.array(f"{group}/{side}", layout(rows[columns[f"latent_{side}"]], neighbours, seed))


def layout(rows: npt.NDArray[Any], neighbours: int, seed: int) -> FloatArray:
    """UMAP by cosine of rows [p, d], float32 [p, 2], centred; empty [0, 2] for fewer than `LEAST_POINTS`."""
    if len(rows) < LEAST_POINTS:
        return np.zeros((0, 2), dtype=np.float32)
    from umap import UMAP

    reducer = UMAP(metric="cosine", n_neighbors=min(neighbours, len(rows) // 3), random_state=seed, n_jobs=1)
    placed = np.asarray(reducer.fit_transform(rows), dtype=np.float32)
    centred: FloatArray = placed - placed.mean(axis=0)
    return centred


def read(path: str | Path, name: str, site_a: str, site_b: str) -> FeatureMap | None:
    """The maps of one cell; None where none was drawn."""
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
