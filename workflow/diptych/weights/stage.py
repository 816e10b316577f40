"""The weights stage: what changed between the weights of two models, tensor by tensor.

    compare("results/models/base", "results/models/tuned", "weights.h5", table="weights.tsv", spec=spec)

Tensors are read one after the other (`comparison`), measured (`changes`) and summed by kind and by block (`summary`);
the first singular vectors of the most changed ones are put into words (`directions`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.models.stored_tensors import StoredTensors
from diptych.runtime import logs
from diptych.storage import artifacts, manifest, tables
from diptych.weights import directions, summary
from diptych.weights.comparison import Comparison

UNKNOWN_SPECTRUM = "a vector, no more than rounding, or a matrix larger than max_side; relative, cosine: zero weights"


def compare(
    model_a: str | Path,
    model_b: str | Path,
    out: str | Path,
    *,
    table: str | Path,
    spec: Mapping[str, Any],
    max_side: int = 8192,
    top: int = 20,
    vectors: int = 2,
    tokens: int = 10,
) -> None:
    """Compare the weights of two models; write a `weights` artifact, and its table of tensors as TSV.

    Neither model is loaded: memory is that of one tensor of either, of its Gram matrix (8 max_side^2 bytes) and, for
    the words, of one model's embedding and unembedding in float32.

    Args:
        model_a: directory of A.
        model_b: directory of B.
        out: path of the artifact.
        table: path of the table of tensors.
        spec: stored with it.
        max_side: singular values are computed of matrices whose shorter side is at most this long.
        top: most changed matrices whose singular vectors are put into words, besides the first of every kind.
        vectors: singular vectors of each.
        tokens: tokens at either end of a singular vector.

    Raises:
        DiptychError: a model is damaged, or holds values that are not finite. Models that cannot be compared are no
            error: the artifact says why.
    """
    for directory in dict.fromkeys((model_a, model_b)):
        manifest.check(directory)
    compared = Comparison(StoredTensors(model_a), StoredTensors(model_b))
    changes = [] if compared.reason else list(compared.changes(max_side))
    named = directions.read(compared, directions.shown(changes, top), vectors)
    columns = summary.tensor_columns(changes)
    with artifacts.create(out, "weights", spec) as writer:
        writer.json("comparison", {"reason": compared.reason, **summary.totals(changes)})
        writer.json("uncompared", {} if compared.reason else {**compared.uncompared, "resized": compared.resized})
        writer.table("tensors", columns, nan=UNKNOWN_SPECTRUM)
        writer.array("singular_values", summary.spectra(changes), nan=UNKNOWN_SPECTRUM)
        writer.table("kinds", summary.kind_columns(changes), nan="A's weights are zero")
        writer.table("blocks", summary.block_columns(changes), nan="A's weights are zero")
        writer.table("directions", directions.columns(named))
        writer.array("directions/residual", directions.stacked(named, compared.width))
        for name, directory in (("a", model_a), ("b", model_b)):
            words = directions.in_words(directory, named, tokens) if named else {}
            writer.table(f"words/{name}", words)
    artifacts.write_text(table, tables.tsv(columns))
    logs.logger.info("%s", compared.reason or summary.totals(changes))
