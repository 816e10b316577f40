"""Costs of the stages of a crosscoder. F latents over models of widths d_m, D = sum of d_m; one job each."""

from dataclasses import replace

from diptych.config.sections.crosscoders import Crosscoder
from diptych.crosscoder.evaluation.encoded import CODE_BYTES
from diptych.crosscoder.training.stage import SERIES_POINTS
from diptych.models.batches import tokens_per_pass
from diptych.planning.cost import Cost, Products, h5
from diptych.planning.shapes import BYTES
from diptych.planning.sizes import Sizes
from diptych.planning.stages.rows import TOP_ROWS, forward_memory

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
    width, features, rows = _width(sizes, crosscoder, site), section.n_latents, float(section.steps * section.batch)
    read_width = width / len(section.models) if section.objective == "diff" else width
    parameters = 2 * features * read_width
    is_dense = section.objective in DENSE
    per_row = 12 * features * read_width if is_dense else 2 * features * read_width + 8 * section.k * read_width
    code = section.batch / section.accumulate / section.processes * features * 4 * (8 if is_dense else 3)
    row_bytes = width * BYTES[study.activations.store]
    train_rows = sizes.common_rows(section.stream or section.corpus, *section.models[:2])
    streamed = _streamed(sizes, section, site, rows) if section.stream else Cost(moved=rows * row_bytes)
    products = Products.of(section.compute, rows * per_row).plus(Products(streamed.flops, streamed.half_flops))
    return Cost(
        tokens=rows,
        flops=products.flops,
        half_flops=products.half_flops,
        traffic=section.steps * (7 * 4 * parameters + 2 * code * section.accumulate),
        moved=streamed.moved,
        memory=OPTIMISED * 4 * parameters + code + streamed.memory,
        host=min(train_rows, 2 * section.buffer_rows) * row_bytes,
        disk=weights_bytes(features, read_width, len(section.models)) + 80 * min(section.steps, SERIES_POINTS),
        scratch=3 * 4 * parameters,
        on_device=True,
        devices=study.gpus(*section.models) if section.stream else 1,
        speedup=section.processes,
        memory_key=f"crosscoders.{crosscoder}.accumulate (parts of a batch), or n_latents",
        disk_key=f"crosscoders.{crosscoder}.n_latents",
    )


def _streamed(sizes: Sizes, section: Crosscoder, site: str, rows: float) -> Cost:
    """Forward passes of the models of a stream, each up to the site; a model that is read twice runs once."""
    assert section.stream is not None
    products, memory, moved = Products(0.0, 0.0), 0.0, 0.0
    for model in dict.fromkeys(section.models):
        shape, dtype = sizes.shape(model), sizes.study.models[model].dtype
        length = sizes.length(section.stream)
        spent = shape.forward_flops(rows, length=length, blocks=shape.blocks_until(site))
        products = products.plus(Products.of(dtype, spent))
        memory += forward_memory(shape, dtype, tokens_per_pass(shape.width))
        moved += shape.parameters * shape.stored
    return Cost(flops=products.flops, half_flops=products.half_flops, memory=memory, moved=moved)


def import_crosscoder(sizes: Sizes, crosscoder: str, site: str, seed: str) -> Cost:
    """Published weights, of as many latents as the config says (its default if it says nothing)."""
    section = sizes.study.crosscoders[crosscoder]
    disk = weights_bytes(section.n_latents, _width(sizes, crosscoder, site), len(section.models))
    return Cost(disk=disk, host=2 * disk, disk_key=f"crosscoders.{crosscoder}.weights")


def _encoding(sizes: Sizes, crosscoder: str, site: str, rows: float, passes: float, codes: float) -> Cost:
    """Encoding and decoding of rows, some times, in blocks; memory holds so many times the dense code of a block."""
    section, width = sizes.study.crosscoders[crosscoder], _width(sizes, crosscoder, site)
    block = min(float(CODE_BYTES), 4 * rows * section.n_latents)
    return Cost(
        tokens=rows,
        flops=passes * rows * (2 * section.n_latents * width + 2 * section.k * width),
        traffic=passes * rows * section.n_latents * 8,
        moved=passes * rows * width * BYTES[sizes.study.activations.store],
        memory=4 * 2 * section.n_latents * width + codes * block,
        on_device=True,
    )


def evaluate_crosscoder(sizes: Sizes, crosscoder: str, site: str, seed: str) -> Cost:
    """Scores on the test fold, and of each model four forward passes (as it is, spliced, with zero, with the mean).

    Logits of 512 tokens are in memory four times: clean and spliced, and their logarithms.
    """
    study, section = sizes.study, sizes.study.crosscoders[crosscoder]
    held_out = sizes.common_rows(section.corpus, *section.models[:2]) / study.corpora[section.corpus].folds
    scored = replace(
        _encoding(sizes, crosscoder, site, held_out, passes=1, codes=2), disk=h5(7, 8 * section.n_latents + 4000)
    )
    if not section.splice_tokens:
        return scored
    products, length = Products(scored.flops, 0.0), sizes.length(section.corpus)
    for model in section.models:
        tokens = 4 * min(section.splice_tokens, held_out)
        spent = sizes.shape(model).forward_flops(tokens, length=length, head=True)
        products = products.plus(Products.of(study.models[model].dtype, spent))
    shape, dtype = sizes.largest(*section.models)
    return replace(
        scored,
        flops=products.flops,
        half_flops=products.half_flops,
        moved=scored.moved + len(section.models) * shape.parameters * shape.stored,
        memory=scored.memory + BYTES[dtype] * shape.parameters + 4 * 4 * 512 * shape.vocabulary,
        pages=shape.parameters * shape.stored,
        devices=study.gpus(*section.models),
        memory_key=f"models.{section.models[0]}.gpus, or splice_tokens: 0",
    )


def describe_latents(sizes: Sizes, crosscoder: str, site: str, seed: str) -> Cost:
    """Every latent on all rows: codes, latent scaling, exchanged models; four passes. 1,200 bytes a latent for two.

    Decoder rows are in memory four times in float64: mapped, as they are, those that live, and at length 1.
    """
    section = sizes.study.crosscoders[crosscoder]
    models, rows = len(section.models), sizes.common_rows(section.corpus, *section.models[:2])
    per_latent = TOP_ROWS * 32 + 7 * 8 * models**2 + 330
    return replace(
        _encoding(sizes, crosscoder, site, rows, passes=4, codes=7),
        host=rows * section.k * 36 + 4 * 8 * section.n_latents * _width(sizes, crosscoder, site),
        disk=h5(38, section.n_latents * per_latent),
        memory_key=f"crosscoders.{crosscoder}.n_latents, or corpora.{section.corpus}.tokens",
    )


def compare_seeds(sizes: Sizes, crosscoder: str, site: str) -> Cost:
    """Cosines of the decoder rows of every pair of runs, 2 F^2 D each."""
    section, width = sizes.study.crosscoders[crosscoder], _width(sizes, crosscoder, site)
    seeds, features = len(section.seeds), section.n_latents
    pairs = seeds * (seeds - 1) / 2
    return Cost(flops=2 * pairs * features**2 * width, traffic=8 * pairs * features**2,
                moved=seeds * 8 * features * width, host=(seeds + 1) * 4 * features * width,
                disk=h5(1 + seeds, 8 * seeds * features + 4000))  # fmt: skip
