"""The pieces that `gpu.py` measures: at the sizes of a study of Gemma-2-2B with 16,384 to 131,072 latents, and tiny."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Piece(NamedTuple):
    """A function of `gpu_pieces`, the seconds that its process may take, and its keywords in either form."""

    function: str
    seconds: float
    full: Mapping[str, Any]
    tiny: Mapping[str, Any]


GEMMA_2_2B = {
    "vocab_size": 32_768,  # of 256,000: no matrix of the vocabulary is multiplied
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256,
}  # fmt: skip
TINY_GEMMA = GEMMA_2_2B | {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16,
}  # fmt: skip
TRAINING = {
    "n_latents": 16_384, "k": 100, "batch": 4096, "buffer_rows": 16_384, "compute": "bfloat16", "learning_rate": 1e-4,
}  # fmt: skip
TINY_TRAINING = {"n_latents": 64, "k": 4, "batch": 64, "buffer_rows": 256, "steps": 6}


def _steps(n_latents: int, compute: str, seconds: float) -> Piece:
    full = {"width": 2304, "batch": 4096, "n_latents": n_latents, "k": 100, "compute": compute, "matrix": 8192}
    return Piece(
        "crosscoder_steps", seconds, {**full, "n_steps": 20},
        {**full, "width": 16, "batch": 32, "n_latents": 64, "k": 4, "matrix": 64, "n_steps": 2},
    )  # fmt: skip


def _stored(on_device: bool) -> Piece:
    return Piece(
        "stored_training", 40, {**TRAINING, "rows": 32_768, "width": 2304, "steps": 60, "on_device": on_device},
        {**TINY_TRAINING, "rows": 1024, "width": 16, "on_device": on_device},
    )  # fmt: skip


PIECES = {
    "crosscoder step, 16,384 latents, float32": _steps(16_384, "float32", 25),
    "crosscoder step, 16,384 latents, bfloat16": _steps(16_384, "bfloat16", 25),
    "crosscoder step, 65,536 latents, float32": _steps(65_536, "float32", 30),
    "crosscoder step, 65,536 latents, bfloat16": _steps(65_536, "bfloat16", 30),
    "training from a buffer on the GPU": _stored(True),
    "training from the host's memory": _stored(False),
    "training on a stream of two models": Piece(
        "streamed_training", 60, {**TRAINING, "model": GEMMA_2_2B, "n_sequences": 2048, "steps": 30},
        {**TINY_TRAINING, "model": TINY_GEMMA, "n_sequences": 8},
    ),
    "dump of one site at half depth": Piece(
        "dumping", 50, {"model": GEMMA_2_2B, "tokens": 65_536, "batch_tokens": 8192},
        {"model": TINY_GEMMA, "tokens": 1024, "batch_tokens": 256},
    ),
    "encoding into 131,072 latents": Piece(
        "encode", 40, {"rows": 32_768, "width": 2304, "latents": 131_072, "l0": 64},
        {"rows": 512, "width": 16, "latents": 128, "l0": 8},
    ),
    "correlation of 131,072 latents, L0 64 (no GPU)": Piece(
        "correlate", 60, {"tokens": 20_000, "latents": 131_072, "l0": 64}, {"tokens": 800, "latents": 64, "l0": 4},
    ),
    "linear map, width 2,304": Piece(
        "map_linearly", 60, {"rows": 16_000, "width": 2304}, {"rows": 640, "width": 8},
    ),
    "matching of 131,072 latents, width 2,304": Piece(
        "match", 60, {"latents": 131_072, "width": 2304, "memory": 2**32},
        {"latents": 128, "width": 16, "memory": 2**20},
    ),
    "linear map, width 4,096": Piece(
        "map_linearly", 150, {"rows": 16_000, "width": 4096}, {"rows": 640, "width": 12},
    ),
}  # fmt: skip
"""In the order in which they are measured: what takes longest last."""
