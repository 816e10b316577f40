"""Costs of the stages that make rows: activations, their gates, dictionaries and features. One job each."""

from diptych.activations.shard_sequences import PRECISION_TOKENS, SAMPLE_ROWS
from diptych.config.sections.dictionaries import TrainedDictionary
from diptych.dictionaries.scaled_rows import BUFFER_ROWS, READ_ROWS
from diptych.models.batches import tokens_per_pass
from diptych.models.sites import neighbouring, resolve_site
from diptych.planning.cost import Cost, Products, h5
from diptych.planning.shapes import BYTES, Shape
from diptych.planning.sizes import Sizes

TOP_ROWS = 20
"""Rows kept of every feature and latent."""


def forward_memory(shape: Shape, dtype: str, tokens: float) -> float:
    """Bytes of a model and of one batch of tokens in it: weights, 8 values of the stream and 2 of the MLP a token."""
    return BYTES[dtype] * (shape.parameters + tokens * (8 * shape.width + 2 * shape.inner))


def dump_activations(sizes: Sizes, corpus: str, model: str, group: str, shard: str) -> Cost:
    """One shard of the rows at a group's sites; blocks are run up to the deepest one.

    Rows lie on disk twice while the shard is written. Some are computed again in float32, if there is memory for it.
    """
    study, shape, dtype = sizes.study, sizes.shape(model), sizes.study.models[model].dtype
    rows, length = sizes.stored_rows(corpus, group) / len(study.shards), sizes.length(corpus)
    if study.has_first_rows(group):
        length = min(length, study.means.positions)
    blocks = max(shape.blocks_until(site) for site in study.sites_of(group))
    products = Products.of(dtype, shape.forward_flops(rows, length=length, blocks=blocks))
    tokens = min(rows, study.activations.batch_tokens or tokens_per_pass(shape.width))
    datasets, values = _shard(sizes, shape, group, rows)
    is_measured = dtype != "float32" and int(shard) == 0
    return Cost(
        tokens=rows,
        flops=products.flops,
        half_flops=products.half_flops,
        memory=forward_memory(shape, dtype, tokens),
        cpu_memory=forward_memory(shape, "float32", PRECISION_TOKENS) if is_measured else 0.0,
        pages=shape.parameters * shape.stored if is_measured else 0.0,
        moved=shape.parameters * shape.stored,
        disk=h5(datasets, values),
        scratch=values,
        on_device=True,
        devices=study.gpus(model),
        memory_key=f"models.{model}.gpus (GPUs that it is spread over), or activations.batch_tokens",
        disk_key=f"corpora.{corpus}.tokens, sites, or `stream` of the crosscoders",
    )


def _shard(sizes: Sizes, shape: Shape, group: str, rows: float) -> tuple[int, float]:
    """Datasets of a shard of activations, and bytes of their values.

    A row has its values and a norm (4 bytes) at each site; where first positions alone are stored, its number (8).
    Otherwise some rows' values at the neighbouring layers are stored too, in bfloat16.
    """
    study, names = sizes.study, sizes.study.sites_of(group)
    values = rows * sum(BYTES[study.activations.store] * shape.width_at(site) + 4 for site in names)
    if study.has_first_rows(group):
        return 3 + 2 * len(names), values + 8 * rows
    hooks = [resolve_site(site, shape.layers) for site in names]
    sampled = {near for hook in hooks for near in neighbouring(hook, shape.layers)}
    sample = min(SAMPLE_ROWS / len(study.shards), rows)
    values += sample * (8 + 2 * sum(shape.width_at(hook) for hook in sampled))
    return 3 + 2 * len(names) + len(sampled), values


def gate_activations(sizes: Sizes, corpus: str, model: str, group: str) -> Cost:
    """A truth value and a cause, one byte each, for every row and site."""
    names = sizes.study.sites_of(group)
    rows = sizes.stored_rows(corpus, group)
    values = sum(sizes.width(model, site) for site in names) * rows * BYTES[sizes.study.activations.store]
    # Its JSON holds norms by position: some 4 kB a site.
    disk = h5(1 + 2 * len(names), rows * 2 * len(names) + 4000 * (1 + len(names)))
    return Cost(tokens=rows, disk=disk, moved=values, traffic=4 * values, host=24 * rows,
                memory_key=f"corpora.{corpus}.tokens")  # fmt: skip


def train_dictionary(sizes: Sizes, dictionary: str) -> Cost:
    """Training of a sparse autoencoder.

    topk and batchtopk multiply densely in the encoder alone, 2 F d a row, and 8 k d for the entries' own products;
    the other architectures 12 F d. An optimiser step moves weights, gradients and two moments 7 times in all.
    """
    study, section = sizes.study, sizes.study.dictionaries[dictionary]
    assert isinstance(section, TrainedDictionary)
    width, features = sizes.width(section.models[0], section.site), section.n_features
    parameters = 2 * features * width
    is_sparse = section.architecture in ("topk", "batchtopk")
    rows = section.steps * section.batch
    read = sum(sizes.rows(section.corpus) for _ in section.models)
    per_row = 2 * features * width + 8 * section.k * width if is_sparse else 12 * features * width
    buffer = min(read, 2 * max(BUFFER_ROWS, 2 * section.batch)) * width * BYTES[study.activations.store]
    dense = section.batch * features * 4 * (3 if is_sparse else 8)
    return Cost(
        tokens=rows,
        # Scored once on every row it may read.
        flops=rows * per_row + 2 * read * parameters,
        traffic=section.steps * (7 * 4 * parameters + 2 * dense),
        moved=rows * width * BYTES[study.activations.store],
        memory=5 * 4 * parameters + dense + 3 * READ_ROWS * (features + width) * 4,
        host=buffer,
        disk=dictionary_bytes(features, width),
        scratch=3 * 4 * parameters,
        on_device=True,
        memory_key=f"dictionaries.{dictionary}.batch, or n_features",
        disk_key=f"dictionaries.{dictionary}.n_features",
    )


def dictionary_bytes(features: int, width: int) -> float:
    """Bytes of a dictionary: two matrices [F, d], two biases, and its JSON, in float32."""
    return 4 * (2 * features * width + features + width) + 2200


def fetch_dictionary(sizes: Sizes, dictionary: str) -> Cost:
    """A published dictionary, read and written in float32."""
    section = sizes.study.dictionaries[dictionary]
    disk = dictionary_bytes(sizes.dictionary(dictionary).features, sizes.width(section.models[0], section.site))
    return Cost(disk=disk, host=2 * disk, disk_key=f"dictionaries.{dictionary}: a narrower one")


def encode_features(sizes: Sizes, corpus: str, model: str, dictionary: str, shard: str) -> Cost:
    """Features of one shard's rows as CSR: 8 bytes for each active one, 40 a row, and the top rows of every feature."""
    site, (features, active) = sizes.study.dictionaries[dictionary].site, sizes.dictionary(dictionary)
    width, rows = sizes.width(model, site), sizes.rows(corpus) / len(sizes.study.shards)
    values = rows * (8 * active + 40) + features * (12 * TOP_ROWS + 16) + 32 * width
    return Cost(
        tokens=rows,
        flops=rows * (2 * features * width + 2 * active * width),
        traffic=rows * features * 8,
        moved=rows * width * BYTES[sizes.study.activations.store],
        memory=8 * features * width + 2 * READ_ROWS * (features + width) * 4,
        # Codes and their copy as they are put together; the sample of three layers that is scored, twice.
        host=3 * rows * 12 * active + features * 12 * TOP_ROWS + 2 * 3 * SAMPLE_ROWS * width * 4,
        disk=h5(23, values),
        on_device=True,
        memory_key=f"dictionaries.{dictionary}: a narrower one",
        disk_key=f"corpora.{corpus}.tokens",
    )
