"""Planting a difference whose truth is known: the yardstick by which every method is judged (METHODS 6).

One MLP's output matrix W gets a rank-one edit W + v u^T. Every token's residual at that block then changes by

    x_B - x_A = v (u . h)

with h the MLP's inner activation. u is the linear discriminant of a concept's tokens, scaled so that u . h averages 1
on them; v points in a random direction, `size` times as long as the median residual. So the planted model says v
wherever the parent reads the concept, and how much it says it on each token is stored beside it:

    plant("results/models/base", "results/tokens/addresses/base.h5", "results/models/planted", spec=spec,
          layer=14, concept=["congress"], size=0.5, seed=0)
    artifacts.read("results/models/planted/truth.h5", "truth")["score"]      # u . h of every token row
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import h5py
import numpy as np
import numpy.typing as npt
import torch

from diptych.models import pretrained
from diptych.models.batches import BoolArray, IntArray, Sequences, grouped
from diptych.models.placement import Devices
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]

BLOCKS = ("model.layers", "transformer.h", "gpt_neox.layers")
OUTPUT_MATRICES = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h")
POST_NORMS = ("post_feedforward_layernorm",)
"""Norms after the MLP (Gemma-2 and 3): behind one, an edit of the matrix no longer adds v (u . h) to the residual."""
MIN_CONCEPT_TOKENS = 20
"""Fewer tokens of the concept than this do not determine a direction."""
OUTLIER_NORM = 4.0
"""Rows with a larger multiple of the median norm take no part in the fit (METHODS 0.1)."""


class Inner(NamedTuple):
    """Results of one pass over the tokens, by token row: h bfloat16 [n, d_mlp] and the block's output norm [n]."""

    h: torch.Tensor
    norm: FloatArray


@dataclass(frozen=True)
class Discriminant:
    """u float64 [d_mlp] and u . h of every token row, float64 [n]."""

    u: DoubleArray
    score: DoubleArray


def plant(
    parent_dir: str | Path,
    tokens: str | Path,
    out_dir: str | Path,
    *,
    spec: Mapping[str, Any],
    layer: int,
    concept: Sequence[str],
    size: float = 0.5,
    ridge: float = 0.01,
    seed: int = 0,
    batch_tokens: int = 2048,
    dtype: pretrained.Dtype = "float32",
    device: Devices = "cpu",
) -> None:
    """Write a copy of a model with a rank-one edit on a concept, and truth.h5 beside its weights.

    Args:
        parent_dir: the model to edit.
        tokens: token file on which the concept is found and u fitted (not on its fold 0).
        out_dir: the new model's directory.
        spec: what the result depends on.
        layer: block whose MLP output matrix is edited.
        concept: words; whole words count, in any case. A word's last token carries the concept: only there has a
            causal model read the whole word.
        size: length of the change on an average concept token, in median residual norms at that block's output.
        ridge: added to the covariance of h before it is inverted, in units of its mean diagonal.
        seed: of the direction of v.
        batch_tokens: tokens of one forward pass.
        dtype: precision of that forward pass; the edit is made in float32 and saved in the parent's precision.
        device: a torch device, or those that the parent is spread over.

    Raises:
        DiptychError: no such block, an architecture on which the truth would not be exact, or a concept that is too
            rare or not linearly readable there.
    """
    sequences = Sequences.read(tokens)
    description = pretrained.describe(parent_dir)
    sequences.check_fits(description)
    if not 0 <= layer < description["n_layers"]:
        raise DiptychError(f"plant: layer {layer} is none of the model's blocks 0 to {description['n_layers'] - 1}")
    with artifacts.read(tokens, "tokens") as file:
        is_concept = concept_rows(file, sequences, concept)
    inner = _read_inner(pretrained.load(parent_dir, dtype=dtype, device=device), sequences, layer, batch_tokens)
    counted = sequences.counts & (inner.norm <= OUTLIER_NORM * np.median(inner.norm[sequences.counts]))
    fitted = counted & (sequences.fold[sequences.document[sequences.row_sequence]] != 0)
    planted = fit(inner.h, is_concept & fitted, fitted, ridge, concept)
    length = size * float(np.median(inner.norm[counted]))
    direction = _direction(description["width"], seed)
    stats = _statistics(planted.score, is_concept, counted, fitted) | {"length": length, "layer": layer}
    parent = pretrained.load(parent_dir)
    add_rank_one(output_matrix(parent, layer), v=length * direction, u=planted.u)
    stored = pretrained.stored_dtype(parent_dir)
    with (
        pretrained.saving(parent, parent_dir, out_dir, spec=spec, dtype=stored) as directory,
        artifacts.create(directory / "truth.h5", "truth", spec) as out,
    ):
        out.array("u", planted.u.astype(np.float32))
        out.array("v", (length * direction).astype(np.float32))
        out.array("direction", direction.astype(np.float32))
        out.array("score", planted.score.astype(np.float32))
        out.array("concept", is_concept)
        out.array("counted", counted)
        out.json("words", list(concept))
        out.json("statistics", stats)
    logs.logger.info("planted on %d tokens, d' %.1f on the test fold", is_concept.sum(), stats["test"]["d_prime"])


# --- the concept ------------------------------------------------------------------------------------------------


def concept_rows(file: h5py.File, sequences: Sequences, words: Sequence[str]) -> BoolArray:
    """bool [n], the last token of every occurrence of one of `words` in the text of a token file.

    The text is put together from the tokens' own texts at their character spans, so a word may be cut into any
    number of tokens; one that the end of a sequence cuts is not found.
    """
    pattern = re.compile(r"\b(?:" + "|".join(re.escape(word) for word in words) + r")\b", re.IGNORECASE)
    text_of = dict(zip(file["vocabulary/id"][:].tolist(), artifacts.read_strings(file, "vocabulary/text"), strict=True))
    span = file["char_span"][:].astype(np.int64)
    is_concept = np.zeros(len(sequences.token), dtype=np.bool_)
    for start, end in zip(sequences.start[:-1], sequences.start[1:], strict=True):
        rows = np.arange(start, end)[span[start:end, 0] >= 0]
        if len(rows) == 0:
            continue
        spans = span[rows] - span[rows[0], 0]
        text = _written(spans, [text_of[int(token)] for token in sequences.token[rows]])
        for match in pattern.finditer(text):
            inside = np.flatnonzero((spans[:, 0] < match.end()) & (spans[:, 1] >= match.end()))
            is_concept[rows[inside[:1]]] = True
    return is_concept


def _written(spans: IntArray, texts: Sequence[str]) -> str:
    """The characters [0, end) that tokens with these spans write; blanks where none is known.

    A token's text may lack the space that its span begins with: it is set flush with the span's end.
    """
    characters = [" "] * int(spans[:, 1].max())
    for (start, end), text in zip(spans.tolist(), texts, strict=True):
        piece = text[-(end - start) :] if end > start else ""
        characters[end - len(piece) : end] = piece
    return "".join(characters)


# --- the direction ----------------------------------------------------------------------------------------------


def fit(h: torch.Tensor, concept: BoolArray, rows: BoolArray, ridge: float, words: Sequence[str] = ()) -> Discriminant:
    """u = (Sigma_h + ridge tr(Sigma_h)/d I)^-1 (mean_concept - mean), scaled so that u . mean_concept = 1 (METHODS 6).

    Args:
        h: [n, d] inner activations.
        concept: bool [n], the concept's rows; they also belong to `rows`.
        rows: bool [n], the rows from which mean and covariance Sigma_h are taken.
        ridge: in units of Sigma_h's mean diagonal.
        words: for the message.

    Raises:
        DiptychError: fewer than MIN_CONCEPT_TOKENS concept rows, or u . mean_concept is not positive.
    """
    key = f"plant: concept {', '.join(words)}"
    if (count := int(concept.sum())) < MIN_CONCEPT_TOKENS:
        raise DiptychError(
            f"{key}: {count} tokens in the training folds, {MIN_CONCEPT_TOKENS} are needed; add words or tokens"
        )
    mean, covariance = _moments(h, rows)
    mean_concept = _rows(h, concept).mean(axis=0, dtype=np.float64)
    covariance[np.diag_indices_from(covariance)] += ridge * np.trace(covariance) / len(covariance)
    u: DoubleArray = np.linalg.solve(covariance, mean_concept - mean)
    on_concept = float(u @ mean_concept)
    if on_concept <= 0:
        raise DiptychError(f"{key}: not linearly readable at this layer (u . h is {on_concept:.2g} on its tokens)")
    u /= on_concept
    score = np.concatenate([_as_float(h[i : i + 4096]) @ u for i in range(0, len(h), 4096)])
    return Discriminant(u, score)


def _moments(h: torch.Tensor, rows: BoolArray) -> tuple[DoubleArray, DoubleArray]:
    """Mean [d] and covariance [d, d] of some rows; block products in float32 about a pilot mean, sums in float64."""
    index = np.flatnonzero(rows)
    pilot = _as_float(h[index[:4096]]).mean(axis=0)
    total = np.zeros(h.shape[1])
    products = np.zeros((h.shape[1], h.shape[1]))
    for start in range(0, len(index), 4096):
        x = _as_float(h[index[start : start + 4096]]) - pilot
        total += x.sum(axis=0, dtype=np.float64)
        products += x.T @ x
    shift = total / len(index)
    return pilot + shift, products / len(index) - np.outer(shift, shift)


def _rows(h: torch.Tensor, rows: BoolArray) -> FloatArray:
    return _as_float(h[torch.from_numpy(np.flatnonzero(rows))])


def _as_float(h: torch.Tensor) -> FloatArray:
    return cast(FloatArray, h.float().numpy())


def _direction(width: int, seed: int) -> DoubleArray:
    direction = np.random.default_rng(seed).standard_normal(width)
    return cast(DoubleArray, direction / np.linalg.norm(direction))


def _statistics(score: DoubleArray, concept: BoolArray, counted: BoolArray, fitted: BoolArray) -> dict[str, Any]:
    """u . h on the concept's tokens and elsewhere, for the rows of the fit and of the test fold."""
    folds = {"fit": fitted, "test": counted & ~fitted}
    return {name: _separation(score[rows & concept], score[rows & ~concept]) for name, rows in folds.items()}


def _separation(on: DoubleArray, elsewhere: DoubleArray) -> dict[str, float]:
    """Counts, means and standard deviations, and d' = (mean difference) / root mean variance; NaN below 2 rows."""
    if min(len(on), len(elsewhere)) < 2:
        return {"n_concept": len(on), "n_elsewhere": len(elsewhere), "d_prime": float("nan")}
    spread = np.sqrt((on.var() + elsewhere.var()) / 2)
    return {
        "n_concept": len(on),
        "n_elsewhere": len(elsewhere),
        "mean_concept": float(on.mean()),
        "mean_elsewhere": float(elsewhere.mean()),
        "sd_concept": float(on.std()),
        "sd_elsewhere": float(elsewhere.std()),
        "d_prime": float((on.mean() - elsewhere.mean()) / spread),
    }


# --- the model --------------------------------------------------------------------------------------------------


def blocks(model: Any) -> torch.nn.ModuleList:
    """The model's list of blocks.

    Raises:
        DiptychError: an architecture whose blocks are not known here.
    """
    for path in BLOCKS:
        if (modules := _find(model, path)) is not None:
            return cast(torch.nn.ModuleList, modules)
    raise DiptychError(f"plant: {type(model).__name__} is not known; its blocks are none of {', '.join(BLOCKS)}")


def output_matrix(model: Any, layer: int) -> torch.nn.Module:
    """The module whose weight maps the MLP's inner activation of block `layer` to the residual stream.

    Raises:
        DiptychError: the block has none that is known, or it normalises the MLP's output.
    """
    block = blocks(model)[layer]
    if any(hasattr(block, name) for name in POST_NORMS):
        raise DiptychError(
            f"plant: {type(model).__name__} normalises its MLP's output, so the planted change would not be exact; "
            "plant in another architecture"
        )
    for path in OUTPUT_MATRICES:
        if (matrix := _find(block, path)) is not None:
            return cast(torch.nn.Module, matrix)
    raise DiptychError(f"plant: block {layer} of {type(model).__name__} has none of {', '.join(OUTPUT_MATRICES)}")


def add_rank_one(matrix: torch.nn.Module, *, v: DoubleArray, u: DoubleArray) -> None:
    """Edit float32 weights so that the output y becomes y + v (u . h), for v [d] and u [d_mlp]."""
    weight = cast(torch.Tensor, matrix.weight)
    edit = torch.from_numpy(np.outer(v, u).astype(np.float32))
    is_transposed = type(matrix).__name__ == "Conv1D"  # GPT-2 keeps weights as [inputs, outputs]
    with torch.no_grad():
        weight += edit.T if is_transposed else edit


def _find(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


@torch.no_grad()
def _read_inner(model: Any, sequences: Sequences, layer: int, batch_tokens: int) -> Inner:
    """Run the model up to block `layer` on all sequences; keeps 2 bytes x d_mlp a token in memory."""
    matrix = output_matrix(model, layer)
    caught: dict[str, torch.Tensor] = {}
    n, device = len(sequences.token), next(model.parameters()).device
    norm = np.zeros(n, dtype=np.float32)
    h: torch.Tensor | None = None
    with _stopping_after(model, layer), _catching(matrix, blocks(model)[layer], caught):
        for which in logs.progress(
            list(grouped(np.diff(sequences.start), batch_tokens)), "read the concept", unit="batch"
        ):
            batch = sequences.batch(which)
            mask = torch.from_numpy(batch.mask).to(device)
            ids = torch.from_numpy(batch.ids).to(device)
            model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
            if h is None:
                h = torch.empty((n, caught["inner"].shape[-1]), dtype=torch.bfloat16)
            h[batch.rows] = caught["inner"].to(device)[mask].to("cpu", torch.bfloat16)
            norm[batch.rows] = caught["output"].to(device)[mask].float().norm(dim=-1).cpu().numpy()
    if h is None:
        raise DiptychError(f"{sequences.path}: holds no sequence; make the tokens again")
    return Inner(h, norm)


@contextmanager
def _stopping_after(model: Any, layer: int) -> Iterator[None]:
    """The model without the blocks behind `layer`."""
    owner_path, name = next(path for path in BLOCKS if _find(model, path) is not None).rsplit(".", 1)
    owner, all_blocks = _find(model, owner_path), blocks(model)
    setattr(owner, name, all_blocks[: layer + 1])
    try:
        yield
    finally:
        setattr(owner, name, all_blocks)


@contextmanager
def _catching(matrix: torch.nn.Module, block: torch.nn.Module, caught: dict[str, torch.Tensor]) -> Iterator[None]:
    """Record the input of `matrix` as "inner" and the output of `block` as "output"."""

    def keep_inner(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        caught["inner"] = inputs[0]

    def keep_output(_: torch.nn.Module, __: Any, output: Any) -> None:
        caught["output"] = output[0] if isinstance(output, tuple) else output

    hooks = [matrix.register_forward_pre_hook(keep_inner), block.register_forward_hook(keep_output)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
