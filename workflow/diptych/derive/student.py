"""Students: models of a teacher's architecture with other blocks, before any training.

    layers = chosen_blocks("every 2", 12)         # (0, 2, 4, 7, 9, 11), which are DistilGPT-2's
    student = student_of(teacher, layers, "parent")

Student block i stands for teacher block layers[i], and is a copy of it unless the weights are random. The token
embedding is the teacher's in any case, and is not trained. Where the unembedding is the same matrix (tied weights), it
is therefore the teacher's too and is not trained either: a student's logits are read off by the teacher's unembedding,
and only what stands between the two ends is learned. An unembedding of its own is copied or drawn as the other weights
are, and trained.
"""

from collections.abc import Sequence
from typing import Any, Literal

from diptych.models.hooks import find_blocks
from diptych.runtime.errors import DiptychError

Init = Literal["parent", "random"]
Layers = int | str | Sequence[int]

EVERY = "every "
"""Beginning of `layers: every k`."""


def chosen_blocks(layers: Layers, n_layers: int) -> tuple[int, ...]:
    """The teacher's block that each block of a student stands for.

    Args:
        layers: their numbers (a repeated one gives a deeper student); or how many, spread evenly from the first block
            to the last; or "every k" for ceil(n_layers / k) of them. Of blocks spread evenly the first is the
            teacher's first and the last its last; a single block is the first.
        n_layers: the teacher's blocks.

    Raises:
        DiptychError: the teacher has no such block, or too few.
    """
    if not isinstance(layers, int | str):
        for layer in layers:
            if not 0 <= layer < n_layers:
                raise DiptychError(f"distill: layers: {layer} is none of the parent's blocks 0 to {n_layers - 1}")
        return tuple(layers)
    if isinstance(layers, str):
        every = int(layers.removeprefix(EVERY))
        if every > n_layers:
            raise DiptychError(f"distill: layers: every {every} of only {n_layers} blocks of the parent; lower it")
        layers = -(-n_layers // every)
    if layers > n_layers:
        raise DiptychError(
            f"distill: layers: {layers} are more than the parent's {n_layers} blocks; lower it, or list blocks "
            "several times for a deeper student"
        )
    last = max(1, layers - 1)
    # i (n_layers - 1) / last, rounded half up.
    return tuple((2 * i * (n_layers - 1) + last) // (2 * last) for i in range(layers))


def student_of(teacher: Any, layers: Sequence[int], init: Init) -> Any:
    """A model of the teacher's architecture with a block for each of `layers`, its token embedding frozen.

    Args:
        teacher: a transformers model.
        layers: the teacher's block that each of the student's stands for.
        init: "parent" (all weights copied) or "random" (drawn as the architecture does, from torch's generator; the
            token embedding is copied).
    """
    student = type(teacher)(_config(teacher.config, layers)).to(teacher.device, teacher.dtype).eval()
    embedding = student.get_input_embeddings()
    embedding.load_state_dict(teacher.get_input_embeddings().state_dict())
    embedding.requires_grad_(False)
    if init == "parent":
        _copy_weights(teacher, student, layers)
    return student


def _config(config: Any, layers: Sequence[int]) -> Any:
    """A config with the blocks `layers` of another: their number, and what is listed block by block."""
    settings = config.to_dict()
    text, inner = config.get_text_config(), settings.get("text_config") or settings
    for key, value in list(inner.items()):
        if "layer" in key and isinstance(value, list) and len(value) == text.num_hidden_layers:
            inner[key] = [value[layer] for layer in layers]
    if "attention_types" in inner:  # GPT-Neo lists its blocks twice
        inner["attention_types"] = [[inner["attention_layers"], 1]]
    inner[text.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(layers)
    return type(config).from_dict(settings)


def _copy_weights(teacher: Any, student: Any, layers: Sequence[int]) -> None:
    """Copy the weights of the chosen blocks, and all that belong to no block."""
    n_layers = teacher.config.get_text_config().num_hidden_layers
    blocks = find_blocks(teacher, n_layers)
    name = next(name for name, module in teacher.named_modules() if module is blocks)
    ends = {key: weight for key, weight in teacher.state_dict().items() if not key.startswith(f"{name}.")}
    student.load_state_dict(ends, strict=False)
    for block, layer in zip(student.get_submodule(name), layers, strict=True):
        block.load_state_dict(blocks[layer].state_dict())
