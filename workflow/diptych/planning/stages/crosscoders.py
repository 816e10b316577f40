"""Costs of the stages of a crosscoder. F latents over models of widths d_m, D = sum of d_m; one job each."""

from diptych.crosscoder.evaluation.encoded import CODE_BYTES
from diptych.crosscoder.training.stage import SERIES_POINTS
from diptych.planning.cost import Cost, h5
from diptych.planning.shapes import BYTES
from diptych.planning.sizes import Sizes
from diptych.planning.stages.rows import TOP_ROWS, forward_memory
from diptych.models.batches import tokens_per_pass

OPTIMISED = 5
"""Values in memory for each parameter: weight, gradient, two moments, and one of a step."""
DENSE = ("l1", "jumprelu")
"""Objectives whose code is multiplied densely."""


def _width(sizes: Sizes, crosscoder: str, site: str) -> int:
    return sum(sizes.width(model, site) for model in sizes.study.crosscoders[crosscoder].models)


def weights_bytes(features: int, width: float, models: int) -> float:
    """Bytes of a crosscoder: encoder and decoder [F, D], biases, means, scales."""
    return h5(10 + 5 * models, 4 * (2 * features * width + features + 2 * width))


def train_crosscoder(sizes: Sizes, crosscoder: str, site: str, seed: str) -> Cost:
    """Training of a crosscoder, with its models' forward passes where it reads a stream.

    Sparse objectives multiply densely in the encoder alone, 2 F D a row, and 8 k D for the entries' own products; dense
    ones 12 F D. A step moves weights, gradients and moments 7 times in all. Memory: 5 values a parameter, the code of
    a part of a batch (3 times, dense 8), and two buffers of rows in their stored precision.
    """
    study, section = sizes.study, sizes.study.crosscoders[crosscoder]
    models, features = section.models, section.n_latents
    width = float(_width(sizes, crosscoder, site))
    read_width = width / len(models) if section.objective == "diff" else width
    parameters = 2 * features * read_width
    rows = float(section.steps * section.batch)
    is_dense = section.objective in DENSE
    per_row = 12 * features * read_width if is_dense else 2 * features * read_width + 8 * section.k * read_width
    part = section.batch / section.accumulate / section.processes
    code = part * features * 4 * (8 if is_dense else 3)
    stored = sizes.common_rows(section.stream or section.corpus, *models[:2]) * 0.8
    buffer = min(stored, 2 * section.buffer_rows) * width * BYTES[study.activations.store]
    half, moved, model_memory = 0.0, rows * width * BYTES[study.activations.store], 0.0
    flops = rows * per_row
    if section.compute == "bfloat16":
        flops, half = 0.0, flops
    if section.stream:
        moved = 0.0
        # A model that is read twice runs once.
        for model in dict.fromkeys(models):
            shape, dtype = sizes.shape(model), study.models[model].dtype
            length = sizes.length(section.stream)
            spent = shape.forward_flops(rows, length=length, blocks=shape.blocks_until(site))
            flops, half = (flops + spent, half) if dtype == "float32" else (flops, half + spent)
            model_memory += forward_memory(shape, str(dtype), tokens_per_pass(shape.width))
            moved += shape.parameters * shape.stored
    series = 80.0 * min(section.steps, SERIES_POINTS)
    return Cost(
        tokens=rows,
        flops=flops,
        half_flops=half,
        traffic=section.steps * (7 * 4 * parameters + 2 * code * section.accumulate),
        moved=moved,
        memory=OPTIMISED * 4 * parameters + code + model_memory,
        host=buffer,
        disk=weights_bytes(features, read_width, len(models)) + series,
        scratch=3 * 4 * parameters,
        on_device=True,
        devices=1 if not section.stream else study.gpus(*models),
        speedup=section.processes,
        memory_key=f"crosscoders.{crosscoder}.accumulate (parts of a batch), or n_latents",
        disk_key=f"crosscoders.{crosscoder}.n_latents",
    )


def import_crosscoder(sizes: Sizes, crosscoder: str, site: str, seed: str) -> Cost:
    """Published weights, of as many latents as the config says (its default if it says nothing)."""
    section = sizes.study.crosscoders[crosscoder]
    disk = weights_bytes(section.n_latents, _width(sizes, crosscoder, site), len(section.models))
    return Cost(disk=disk, host=2 * disk, disk_key=f"crosscoders.{crosscoder}.weights")


def _encoding(sizes: Sizes, crosscoder: str, site: str, rows: float, passes: float) -> dict[str, float]:
    """Flops and memory of encoding and decoding rows in blocks whose dense code takes at most `CODE_BYTES`."""
    section, width = sizes.study.crosscoders[crosscoder], _width(sizes, crosscoder, site)
    parameters = 2 * section.n_latents * width
    return {
        "tokens": rows,
        "flops": passes * rows * (2 * section.n_latents * width + 2 * section.k * width),
        "traffic": passes * rows * section.n_latents * 8,
        "moved": passes * rows * width * BYTES[sizes.study.activations.store],
        "memory": 4 * parameters + 2 * _code(sizes, crosscoder, rows),
    }


def _code(sizes: Sizes, crosscoder: str, rows: float) -> float:
    """Bytes of the dense code of a block of rows."""
    return min(float(CODE_BYTES), 4 * rows * sizes.study.crosscoders[crosscoder].n_latents)


def evaluate_crosscoder(sizes: Sizes, crosscoder: str, site: str, seed: str) -> Cost:
    """Scores on the test fold, and of each model four forward passes (as it is, spliced, with zero, with the mean)."""
    study, section = sizes.study, sizes.study.crosscoders[crosscoder]
    held_out = sizes.common_rows(section.corpus, *section.models[:2]) / study.corpora[section.corpus].folds
    numbers = _encoding(sizes, crosscoder, site, held_out, 1)
    half, pages = 0.0, 0.0
    if section.splice_tokens:
        for model in section.models:
            shape, dtype = sizes.shape(model), study.models[model].dtype
            spent = 4 * shape.forward_flops(min(section.splice_tokens, held_out), length=sizes.length(section.corpus),
                                            head=True)  # fmt: skip
            numbers["flops"] += spent if dtype == "float32" else 0
            half += 0 if dtype == "float32" else spent
            numbers["moved"] += shape.parameters * shape.stored
        largest = max((sizes.shape(model) for model in section.models), key=lambda shape: shape.parameters)
        dtype = max((study.models[model].dtype for model in section.models), key=lambda name: BYTES[name])
        # Logits of 512 tokens, clean and spliced, in float32 and as their logarithms.
        numbers["memory"] += BYTES[dtype] * largest.parameters + 4 * 4 * 512 * largest.vocabulary
        pages = largest.parameters * largest.stored
    return Cost(
        **numbers, half_flops=half, pages=pages, disk=h5(7, 8 * section.n_latents + 4000), on_device=True,
        devices=study.gpus(*section.models) if section.splice_tokens else 1,
        memory_key="the models' gpus, or splice_tokens: 0",
    )  # fmt: skip


def describe_latents(sizes: Sizes, crosscoder: str, site: str, seed: str) -> Cost:
    """Every latent on all rows: codes, latent scaling, exchanged models; four passes. 1,200 bytes a latent for two."""
    section = sizes.study.crosscoders[crosscoder]
    models, rows = len(section.models), sizes.common_rows(section.corpus, *section.models[:2])
    numbers = _encoding(sizes, crosscoder, site, rows, 4)
    numbers["memory"] += 5 * _code(sizes, crosscoder, rows)
    per_latent = TOP_ROWS * 32 + 7 * 8 * models**2 + 330
    return Cost(**numbers, host=rows * section.k * 36, disk=h5(38, section.n_latents * per_latent), on_device=True,
                memory_key=f"crosscoders.{crosscoder}.n_latents, or corpora.{section.corpus}.tokens")  # fmt: skip


def compare_seeds(sizes: Sizes, crosscoder: str, site: str) -> Cost:
    """Cosines of the decoder rows of every pair of runs, 2 F^2 D each."""
    section, width = sizes.study.crosscoders[crosscoder], _width(sizes, crosscoder, site)
    seeds, features = len(section.seeds), section.n_latents
    pairs = seeds * (seeds - 1) / 2
    return Cost(flops=2 * pairs * features**2 * width, traffic=8 * pairs * features**2,
                moved=seeds * 8 * features * width, host=(seeds + 1) * 4 * features * width,
                disk=h5(1 + seeds, 8 * seeds * features + 4000))  # fmt: skip
