"""Costs of the stages that compare two models without a crosscoder. One job each."""

import math

from diptych import methods
from diptych.models.batches import tokens_per_pass
from diptych.outputs.streaming import BLOCK_VALUES
from diptych.planning.cost import Cost, Products, h5
from diptych.planning.shapes import BYTES
from diptych.planning.sizes import ALIGNED_SHARE, DictionarySize, Sizes
from diptych.planning.stages.rows import forward_memory

MOVED_TOKENS = 50
"""Tokens whose probabilities rose or fell most that are kept at every position."""
TESTED_TOKENS = 7.0
"""Tokens that are tested for each position that is read, at most the vocabulary: 7.0 in the default study."""
DECOMPOSITIONS, ARRAYS = 44, 47
"""Eigendecompositions of a linear map, and square matrices in memory at its peak (benchmarks/README.md)."""
MAPPED_ARRAYS = 4
"""Matrices of coefficients that are stored: the best and the ridge one, in both directions."""
SCORE_BYTES = 65_200.0
"""Bytes of the scores of one cell, which depend on its measures and word lists, not on sizes."""


def _models(sizes: Sizes, pair: str) -> tuple[str, str]:
    section = sizes.study.pairs[pair]
    return section.a, section.b


def compare_outputs(sizes: Sizes, pair: str) -> Cost:
    """Next-token probabilities: both models' forward passes with logits, 2 d V a position.

    In memory: a model, both heads, three float32 blocks of positions by vocabulary.
    """
    study, section = sizes.study, sizes.study.pairs[pair]
    models, length = _models(sizes, pair), sizes.length(section.corpus)
    positions, read = _positions(sizes, pair)
    products, scratch, heads, moved = Products(0.0, 0.0), 0.0, 0.0, 0.0
    for model in models:
        model_shape, model_dtype = sizes.shape(model), study.models[model].dtype
        logits = 2 * positions * model_shape.width * model_shape.vocabulary
        products = products.plus(Products.of(model_dtype, model_shape.forward_flops(read, length=length) + logits))
        heads += BYTES[model_dtype] * model_shape.width * model_shape.vocabulary
        scratch += 4 * positions * model_shape.width + 4 * model_shape.vocabulary * sizes.sequences(section.corpus)
        moved += model_shape.parameters * model_shape.stored
    shape, dtype = sizes.largest(*models)
    batch = min(read, tokens_per_pass(shape.width))
    return Cost(
        tokens=2 * read,
        flops=products.flops,
        half_flops=products.half_flops,
        traffic=40 * 4 * positions * shape.vocabulary,
        moved=moved,
        memory=forward_memory(shape, dtype, batch) + heads + 12 * BLOCK_VALUES,
        pages=shape.parameters * shape.stored,
        disk=_outputs_bytes(sizes, pair, positions),
        scratch=scratch,
        on_device=True,
        devices=study.gpus(*models),
        memory_key=f"models.{section.a}.gpus, or its dtype",
        disk_key="outputs.tokens",
    )


def _positions(sizes: Sizes, pair: str) -> tuple[float, float]:
    """Positions whose next tokens are compared, of text and of replies, and tokens that are read for them."""
    study, corpus, outputs = sizes.study, sizes.study.pairs[pair].corpus, sizes.study.outputs
    prompts = study.prompts(pair)
    replies = min(outputs.replies, sizes.sequences(prompts)) if prompts else 0
    tokens = min(outputs.tokens or sizes.tokens(corpus), sizes.tokens(corpus))
    read = tokens + (replies * sizes.length(prompts) if prompts else 0)
    return tokens * (1 - 1 / sizes.length(corpus)) + replies, read


def _outputs_bytes(sizes: Sizes, pair: str, positions: float) -> float:
    """Bytes of what is kept.

    A position has 8 columns, and the 50 tokens that rose and fell most (8 bytes each); a tested token has 15 columns
    in the file and a line of 100 bytes in the table. A model with itself has none of these, models of two tokenizers
    four columns for each common position.
    """
    study, section = sizes.study, sizes.study.pairs[pair]
    if study.tokenizer(section.a) != study.tokenizer(section.b):
        return h5(22, 32 * positions * ALIGNED_SHARE)
    is_same = section.a == section.b
    tested = 0.0 if is_same else min(sizes.shape(section.a).vocabulary, TESTED_TOKENS * positions)
    return h5(130, positions * (4 * 4 * MOVED_TOKENS + 32) + tested * (120 + 100) + 640 * study.outputs.top)


def compare_weights(sizes: Sizes, pair: str) -> Cost:
    """Norms of all changes, and singular values of every matrix that changed, 4 m n min(m, n) by its Gram matrix.

    In memory are the largest tensor of both models, a Gram matrix, and the unembedding in float32, by which singular
    vectors are put into words.
    """
    a, b = _models(sizes, pair)
    shape = sizes.shape(a)
    is_same = a == b
    same_shape = (shape.layers, shape.width, shape.inner) == tuple(
        getattr(sizes.shape(b), name) for name in ("layers", "width", "inner")
    )
    tensors = shape.tensors if same_shape else 0
    work = 0.0 if is_same or not same_shape else 4.0 * shape.layers * shape.block * shape.width
    directions = 0.0 if is_same else min(50, 2 * tensors) * 4 * shape.width
    disk = h5(25, tensors * (1010 + 170) + directions)
    tensor = 2 * shape.vocabulary * shape.width * shape.stored
    gram = 0 if is_same else 8 * max(shape.inner, shape.width) ** 2
    lens = 0 if is_same else 4 * shape.vocabulary * shape.width
    return Cost(flops=work, moved=2 * shape.parameters * shape.stored, traffic=6 * shape.parameters * 4, disk=disk,
                host=tensor + gram + lens)  # fmt: skip


def compare_means(sizes: Sizes, pair: str, site_a: str, site_b: str) -> Cost:
    """Means by place, and three numbers (16 bytes) of every row."""
    section = sizes.study.pairs[pair]
    widths = sizes.width(section.a, site_a), sizes.width(section.b, site_b)
    share = sizes.common_rows(section.corpus, section.a, section.b) / sizes.rows(section.corpus)
    rows = sizes.site_rows(section.corpus, site_a) * share
    values = rows * sum(widths)
    disk = h5(48, 16 * rows + 7 * 8 * widths[1] + 5000)
    shape = sizes.shape(section.a)
    return Cost(tokens=rows, disk=disk, flops=10 * values, moved=2 * values, traffic=4 * values,
                host=40 * rows + 2 * shape.vocabulary * shape.width * 4,
                memory_key=f"corpora.{section.corpus}.tokens")  # fmt: skip


def fit_linear_map(sizes: Sizes, pair: str, site_a: str, site_b: str) -> Cost:
    """The ladder of maps in both directions.

    Second moments of both models' rows together, 2 n (d_A + d_B)^2, and once more with rows exchanged; then 44
    eigendecompositions of 9 d^3. Memory does not grow with the rows beyond 40 bytes each.
    """
    section = sizes.study.pairs[pair]
    d_a, d_b = sizes.width(section.a, site_a), sizes.width(section.b, site_b)
    rows = sizes.common_rows(section.corpus, section.a, section.b)
    larger = max(d_a, d_b)
    directions = sizes.study.linear_map.directions
    values = 40 * rows + MAPPED_ARRAYS * 4 * d_a * d_b + (d_a + d_b) * 8 * (32 + 4 * directions + 6)
    return Cost(
        tokens=rows,
        flops=3 * rows * (d_a + d_b) ** 2 + DECOMPOSITIONS * 9 * larger**3,
        moved=3 * rows * (d_a + d_b) * BYTES[sizes.study.activations.store],
        traffic=3 * 8 * rows * (d_a + d_b),
        memory=ARRAYS * 8 * larger**2,
        host=64 * rows,
        disk=h5(92, values + 45_000),
        on_device=True,
        memory_key=f"pairs.{pair}.sites: one of a smaller width",
        disk_key=f"corpora.{section.corpus}.tokens",
    )


def _dictionaries(sizes: Sizes, pair: str, site_a: str, site_b: str) -> tuple[DictionarySize, DictionarySize]:
    a, b = sizes.study.dictionaries_at(pair, site_a, site_b)
    return sizes.dictionary(a), sizes.dictionary(b)


def correlate_features(sizes: Sizes, pair: str, site_a: str, site_b: str) -> Cost:
    """Exact correlations of all pairs of features in two halves of the documents.

    Either 2 L0_A L0_B a row from the sparse codes or 2 F_A F_B from dense ones, whichever is less; entries are read
    once more to find the k best. 12 bytes a kept partner in each half.
    """
    section = sizes.study.pairs[pair]
    a, b = _dictionaries(sizes, pair, site_a, site_b)
    rows, k = sizes.common_rows(section.corpus, section.a, section.b), sizes.study.correlation.k
    codes = rows * 12 * (a.active + b.active)
    entries = a.features * b.features
    products = 2 * rows * _entries_of_a_row(a, b, entries)
    return Cost(
        tokens=rows,
        flops=products,
        traffic=2 * 8 * 3 * entries,
        moved=8 / 12 * codes,
        host=2 * codes + min(sizes.study.correlation.memory * 2**20, 16 * entries),
        disk=h5(24, (a.features + b.features) * (24 * k + 48) + 3300),
        memory_key="correlation.memory",
        disk_key="correlation.k",
    )


def _entries_of_a_row(a: DictionarySize, b: DictionarySize, entries: float) -> float:
    """Products of a row's features, of sparse codes or of dense ones: a sparse one costs as much as some 20 dense ones
    (benchmarks/README.md).
    """
    return min(20 * a.active * b.active, entries)


def _eligible(sizes: Sizes, rows: float, dictionary: DictionarySize) -> float:
    """The most features that can fire on `correlation.min_active` tokens of both halves of the documents."""
    return min(dictionary.features, rows * dictionary.active / (2 * sizes.study.correlation.min_active))


def pair_features(sizes: Sizes, pair: str, site_a: str, site_b: str) -> Cost:
    """Scores of all pairs of eligible features, twice with those of decoys: by decoders 2 n_A n_B d each.

    Both dictionaries are read, and A's decoder is carried by the map, 2 F_A d_A d_B. A feature has 215 bytes in the
    file, of them its top tokens as text, and 115 in the tables.
    """
    section = sizes.study.pairs[pair]
    a, b = _dictionaries(sizes, pair, site_a, site_b)
    d_a, d_b = sizes.width(section.a, site_a), sizes.width(section.b, site_b)
    rows = sizes.common_rows(section.corpus, section.a, section.b)
    n_a, n_b = (_eligible(sizes, rows, dictionary) for dictionary in (a, b))
    by_codes = rows * _entries_of_a_row(a, b, n_a * n_b)
    by_decoders = n_a * n_b * d_b
    products = by_codes if sizes.study.pairing_of(pair).score == "rho" else by_decoders
    codes = 24 * rows * (a.active + b.active)
    return Cost(
        tokens=rows,
        flops=2 * a.features * d_a * d_b + 4 * products,
        traffic=24 * n_a * n_b,
        moved=codes / 3 + 8 * (a.features * d_a + b.features * d_b),
        host=codes
        + 8 * (a.features * d_a + b.features * d_b)
        + 4 * a.features * d_b
        + min(sizes.study.correlation.memory * 2**20, 16 * n_a * n_b),
        disk=h5(40, (a.features + b.features) * (215 + 115)),
        memory_key="correlation.memory",
        disk_key="dictionaries: narrower ones",
    )


def compare_spaces(sizes: Sizes, pair: str, site_a: str, site_b: str) -> Cost:
    """Scores of the paired decoder rows [p, d]: Gram matrices 2 p^2 d, nulls on at most `rsa_null_rows` of them."""
    section, settings = sizes.study.pairs[pair], sizes.study.similarity
    a, b = _dictionaries(sizes, pair, site_a, site_b)
    d_a, d_b = sizes.width(section.a, site_a), sizes.width(section.b, site_b)
    widths = d_a + d_b
    rows = sizes.common_rows(section.corpus, section.a, section.b)
    points = min(_eligible(sizes, rows, a), _eligible(sizes, rows, b))
    sampled = min(points, settings.rsa_rows)
    null = min(points, settings.rsa_null_rows)
    flops = 4 * points * widths**2 + 2 * sampled**2 * widths + 2 * settings.repairings * null**2
    nuclear = settings.nuclear_repairings * 9 * min(widths / 2, points) ** 3
    dictionaries = 8 * (a.features * d_a + b.features * d_b)
    return Cost(tokens=points, flops=flops + nuclear, disk=h5(0, SCORE_BYTES), moved=dictionaries,
                host=dictionaries + 16 * points * widths + 24 * sampled**2,
                memory_key="similarity.rsa_rows")  # fmt: skip


def reproduce_lan2024(sizes: Sizes, pair: str, site_a: str, site_b: str) -> Cost:
    """Both models' rows of the corpus anew, dense features of blocks of rows, and their correlations, 2 n F_A F_B."""
    section = sizes.study.pairs[pair]
    a, b = _dictionaries(sizes, pair, site_a, site_b)
    rows, length = sizes.tokens(section.corpus), sizes.length(section.corpus)
    shapes = [sizes.shape(model) for model in _models(sizes, pair)]
    forward = sum(shape.forward_flops(rows, length=length, blocks=shape.blocks_until(site))
                  for shape, site in zip(shapes, (site_a, site_b), strict=True))  # fmt: skip
    encode = 2 * rows * (a.features * shapes[0].width + b.features * shapes[1].width)
    weights = sum(4 * shape.parameters for shape in shapes) + 8 * (a.features + b.features) * shapes[0].width
    block = min(sizes.study.correlation.memory * 2**20, 8 * a.features * b.features)
    return Cost(tokens=2 * rows, flops=forward + encode + 2 * rows * a.features * b.features, memory=weights + block,
                disk=h5(10, 14_000), on_device=True, devices=sizes.study.gpus(*_models(sizes, pair)),
                memory_key="correlation.memory, or the models' gpus")  # fmt: skip


def steer_features(sizes: Sizes, pair: str, site_a: str, site_b: str) -> Cost:
    """Texts of both models: each token is one forward pass, and texts are read twice more for their distributions.

    A step of a batch reads all weights once. Memory beside the model: distributions, 4 bytes a token and vocabulary
    entry of a batch, three times.
    """
    study, settings, models = sizes.study, sizes.study.steering, _models(sizes, pair)
    directions = _directions(sizes, pair, site_a, site_b)
    trials, per_trial = directions * len(settings.strengths) + 1, len(settings.prompts) * settings.samples
    texts, batches = trials * per_trial, trials * math.ceil(per_trial / settings.batch)
    products, traffic, moved = Products(0.0, 0.0), 0.0, 0.0
    for model in models:
        model_shape, model_dtype = sizes.shape(model), study.models[model].dtype
        spent = 3 * model_shape.forward_flops(texts * settings.length, length=settings.length, head=True)
        products = products.plus(Products.of(model_dtype, spent))
        traffic += batches * settings.length * model_shape.parameters * BYTES[model_dtype]
        moved += model_shape.parameters * model_shape.stored
    shape, dtype = sizes.largest(*models)
    at_once = min(settings.batch, per_trial) * settings.length
    return Cost(
        tokens=2 * texts * settings.length,
        flops=products.flops,
        half_flops=products.half_flops,
        traffic=traffic,
        moved=moved,
        memory=BYTES[dtype] * shape.parameters + 3 * 4 * at_once * shape.vocabulary,
        pages=shape.parameters * shape.stored,
        disk=h5(42, 2 * texts * (60 + 5 * settings.length) + 2 * directions * 4 * shape.width),
        on_device=True,
        devices=study.gpus(*models),
        memory_key="steering.batch, or the models' gpus",
    )


def _directions(sizes: Sizes, pair: str, site_a: str, site_b: str) -> int:
    """Directions along which each model of a cell is steered, at most."""
    settings = sizes.study.steering
    names = [sizes.study.dictionary(pair, side, site) for side, site in (("a", site_a), ("b", site_b))]
    listed = sum(len(settings.features.get(name, ())) for name in names if name)
    return len(methods.steered()) * settings.top + settings.matched + settings.random + settings.latents + listed
