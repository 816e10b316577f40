"""Shapes of models before their weights are there: parameters, bytes, floating-point operations of a forward pass.

shape = shapes.from_config(json.load(open("config.json")), "models.base")
shape.parameters                      # 134,515,008 for SmolLM2-135M
shape.forward_flops(1000, length=128) # of 1,000 tokens in sequences of 128

Dense transformers only: a shape that would have to be guessed is an error.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diptych.config.layout import Layout
from diptych.config.sections.models import DirectoryModel, Distill, HubModel, RandomModel, WheelModel
from diptych.models import hub, sites
from diptych.planning.known import KNOWN
from diptych.runtime.errors import DiptychError

BYTES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of a value by precision."""
UNGATED = frozenset({"gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "phi", "starcoder2"})
"""Model types whose MLP has two matrices, not three."""
UNTIED = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gptj", "phi", "phi3", "olmo", "olmo2"})
"""Model types with an unembedding of their own where config.json does not say."""
POSITIONS = frozenset({"gpt2", "gpt_neo", "opt"})
"""Model types with a learned vector per position."""
KEYS: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "vocabulary": ("vocab_size",),
}
"""Names in config.json."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a dense transformer.

    Attributes:
        layers: blocks.
        width: of the residual stream.
        inner: neurons of a block's MLP.
        heads, key_heads: attention heads of queries, and of keys and values.
        head: width of a head.
        vocabulary: rows of the embedding.
        gated: whether the MLP has a gate, thus three matrices.
        tied: whether embedding and unembedding are one matrix.
        positions: rows of a learned embedding of positions.
        stored: bytes of a stored weight.
    """

    layers: int
    width: int
    inner: int
    heads: int
    key_heads: int
    head: int
    vocabulary: int
    gated: bool = True
    tied: bool = False
    positions: int = 0
    stored: int = 2

    @property
    def block(self) -> int:
        """Parameters of a block's matrices: queries and output, keys and values, the MLP."""
        attention = 2 * self.width * self.head * (self.heads + self.key_heads)
        return attention + (3 if self.gated else 2) * self.width * self.inner

    @property
    def parameters(self) -> int:
        """Parameters; norms and biases, less than one in 100, are left out."""
        embeddings = self.vocabulary * (1 if self.tied else 2) + self.positions
        return embeddings * self.width + self.layers * self.block

    @property
    def tensors(self) -> int:
        """Stored tensors, about: matrices and two norms a block, embeddings and the last norm."""
        return self.layers * (9 if self.gated else 12) + (2 if self.tied else 3)

    def forward_flops(self, tokens: float, *, length: float, blocks: float | None = None, head: bool = False) -> float:
        """Floating-point operations of a forward pass: 2 a parameter and token, and attention's products.

        A block multiplies by its matrices, 2 x parameters x tokens, and computes scores and their sums of values,
        2 x 2 x heads x head x length a token (the whole square of positions, which a kernel may halve).

        Args:
            tokens: in all.
            length: of a sequence.
            blocks: that are run; all if not given.
            head: whether logits are computed.
        """
        per_block = 2 * self.block + 4 * self.heads * self.head * length
        logits = 2 * self.width * self.vocabulary if head else 0
        return tokens * ((self.layers if blocks is None else blocks) * per_block + logits)

    def width_at(self, site: str) -> int:
        """Values of a row at a site."""
        hook = sites.resolve_site(site, self.layers)
        if hook.endswith((".mlp.hook_pre", ".mlp.hook_post")):
            return self.inner
        if hook.endswith((".hook_z", ".hook_q")):
            return self.heads * self.head
        return self.key_heads * self.head if hook.endswith((".hook_k", ".hook_v")) else self.width

    def blocks_until(self, site: str) -> int:
        """Blocks that a forward pass runs to reach a site."""
        hook = sites.resolve_site(site, self.layers)
        block = sites.block_of(hook)
        return 0 if block is None else block + (not hook.endswith((".hook_resid_pre", ".hook_in")))


def from_config(config: Mapping[str, Any], where: str) -> Shape:
    """The shape that a config.json describes.

    Raises:
        DiptychError: after `where`, no dense transformer.
    """
    inner = config.get("text_config", config)
    sizes = {name: next((int(inner[key]) for key in keys if inner.get(key)), 0) for name, keys in KEYS.items()}
    missing = [KEYS[name][0] for name, size in sizes.items() if not size]
    if missing or any(inner.get(key) for key in ("num_local_experts", "num_experts", "n_routed_experts")):
        what = f"config.json has no {missing[0]}" if missing else "a mixture of experts"
        raise DiptychError(f"{where}: {what}; a plan counts dense transformers only, run the study without one")
    kind = str(inner.get("model_type", config.get("model_type")))
    width, heads = sizes["width"], sizes["heads"]
    return Shape(
        layers=sizes["layers"],
        width=width,
        inner=int(inner.get("intermediate_size") or inner.get("n_inner") or 4 * width),
        heads=heads,
        key_heads=int(inner.get("num_key_value_heads") or heads),
        head=int(inner.get("head_dim") or width // heads),
        vocabulary=sizes["vocabulary"],
        gated=kind not in UNGATED,
        tied=bool(inner.get("tie_word_embeddings", config.get("tie_word_embeddings", kind not in UNTIED))),
        positions=int(inner.get("max_position_embeddings") or inner.get("n_positions") or 0) * (kind in POSITIONS),
        stored=BYTES.get(str(config.get("dtype") or config.get("torch_dtype") or "float32"), 4),
    )


def of_model(layout: Layout, alias: str) -> Shape:
    """The shape of a model of a study: of its files if it is there, of its source, or of its parent.

    Raises:
        DiptychError: no config.json can be read, on disk, in the hub's cache or from the hub.
    """
    section, where = layout.study.models[alias], f"models.{alias}"
    made = layout.model(alias).parent / "config.json"
    if made.is_file():
        return from_config(json.loads(made.read_text(encoding="utf-8")), where)
    if isinstance(section, RandomModel):
        return _random(section)
    if isinstance(section, DirectoryModel):
        return _on_disk(Path(section.path), where)
    if isinstance(section, HubModel):
        return _on_hub(section, where)
    if isinstance(section, WheelModel):
        return _listed(section.package, f"{where}: shape of {section.package} unknown before it is fetched; run "
                       f"`snakemake {layout.model(alias)}` first")  # fmt: skip
    parent = of_model(layout, layout.study.parent(alias))
    return replace(parent, layers=_kept(section, parent.layers)) if isinstance(section, Distill) else parent


def _random(section: RandomModel) -> Shape:
    positions = 512 if section.architecture == "gpt2" else 0
    return Shape(
        layers=section.layers,
        width=section.width,
        inner=4 * section.width,
        heads=section.heads,
        key_heads=section.heads,
        head=section.width // section.heads,
        vocabulary=section.vocabulary,
        gated=section.architecture in ("llama", "gemma2"),
        tied=section.architecture in ("gpt2", "gemma2"),
        positions=positions,
        stored=4,
    )


def _on_disk(path: Path, where: str) -> Shape:
    config = path / "config.json"
    if not config.is_file():
        raise DiptychError(f"{where}.path: {path} holds no config.json, which says its shape; name a model's directory")
    return from_config(json.loads(config.read_text(encoding="utf-8")), where)


def _on_hub(section: HubModel, where: str) -> Shape:
    """Of the cache, of the list of known shapes, or of the hub, in this order: nothing is downloaded that is known."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(section.id, "config.json", revision=section.revision)
    if isinstance(cached, str):
        return _on_disk(Path(cached).parent, where)
    if section.id.lower() in KNOWN:
        return Shape(**KNOWN[section.id.lower()])
    try:
        snapshot = hub.snapshot(section.id, section.revision, ["config.json"])
    except DiptychError as error:
        raise DiptychError(
            f"{where}: unknown shape ({error}); give it: `hf download {section.id} config.json --revision "
            f"{section.revision}` where there is a network, into {os.environ.get('HF_HOME', '~/.cache/huggingface')}"
        ) from error
    return _on_disk(snapshot, where)


def _listed(name: str, otherwise: str) -> Shape:
    if name.lower() not in KNOWN:
        raise DiptychError(otherwise)
    return Shape(**KNOWN[name.lower()])


def _kept(section: Distill, layers: int) -> int:
    """Blocks of a student."""
    if isinstance(section.layers, int):
        return section.layers
    if isinstance(section.layers, tuple):
        return len(section.layers)
    return -(-layers // int(section.layers.split()[1]))
