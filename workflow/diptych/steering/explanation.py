"""Explanation of a direction by the model itself.

explain(model, tokenizer, directions, scales)    # the model's answer to "what does <direction> mean?"
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diptych.models.hooks import find_blocks
from diptych.models.sites import resolve_site
from diptych.steering.intervention import Edit, IntArray, decode_greedily
from diptych.text.tokenizer import Tokenizer

FloatArray = npt.NDArray[np.float32]

PLACEHOLDER = "X"
QUESTION = f'What is the meaning of the word "{PLACEHOLDER}"?'
ANSWER = f'The meaning of the word "{PLACEHOLDER}" is "'
"""The question and the beginning of the answer; the direction replaces the placeholder's activation in both."""
EXPLAINED_AT = "first"
"""Hook at which the placeholder is replaced: after the first block, before other tokens can attend to it."""


def explain(
    model: Any, tokenizer: Tokenizer, directions: FloatArray, scales: list[float], length: int
) -> list[list[str]]:
    """The model's explanation of each direction at each scale, texts [directions][scales], decoded greedily.

    Args:
        model: a transformers causal language model with a chat template.
        tokenizer: of the model.
        directions: unit rows [n, d].
        scales: in units of the median residual norm at the site of the replacement, over the prompt.
        length: tokens of the answer.
    """
    text = tokenizer.render(tokenizer.template, [{"role": "user", "content": QUESTION}], True) + ANSWER
    encoded = tokenizer.encode([text])[0]
    at = [position for position, span in enumerate(encoded.span.tolist()) if PLACEHOLDER in text[slice(*span)]]
    prompt = np.array([*tokenizer.prefix, *encoded.token.tolist()], dtype=np.int64)
    n_layers = int(model.config.get_text_config().num_hidden_layers)
    size = _median_norm(model, prompt, n_layers)
    sizes = torch.tensor(scales, dtype=torch.float32) * size
    vectors = (sizes[None, :, None] * torch.from_numpy(directions)[:, None, :]).flatten(0, 1)
    positions = tuple(position + len(tokenizer.prefix) for position in at)
    edit = Edit(vectors, first=0, replaces=True, only=positions)
    hook = resolve_site(EXPLAINED_AT, n_layers)
    written = decode_greedily(model, prompt, length, hook, edit)
    texts = [tokenizer.decode(row.tolist()) for row in written]
    return [texts[start : start + len(scales)] for start in range(0, len(texts), len(scales))]


@torch.inference_mode()
def _median_norm(model: Any, prompt: IntArray, n_layers: int) -> float:
    """Median residual norm of a prompt's tokens after the first block, without the first token."""
    outputs: list[Tensor] = []

    def store_output(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handle = find_blocks(model, n_layers)[0].register_forward_hook(store_output)
    try:
        model(input_ids=torch.from_numpy(prompt).to(next(model.parameters()).device)[None], use_cache=False)
    finally:
        handle.remove()
    return float(outputs[0][0, 1:].float().norm(dim=-1).median())
