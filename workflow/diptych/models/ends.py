"""The two ends of a model, embedding and final norm with unembedding, without the blocks between them.

model = ends.load("results/models/base")         # a transformers model whose blocks are on torch's meta device
lens.lens(model, directions, scale)              # needs no block
model.get_input_embeddings().weight              # [V, d]
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from diptych.models import lens, pretrained
from diptych.models.stored_tensors import StoredTensors, key_of
from diptych.runtime.errors import DiptychError

SAVED_AS = {"lm_head.weight": "embed_out.weight"}
"""Keys under which transformers saves what it calls otherwise in memory (GPT-NeoX)."""


def load(directory: str | Path) -> Any:
    """A causal language model of which only embedding, final norm and unembedding are in memory, in float32.

    Args:
        directory: as `sources.fetch` or a function of `derive` made it.

    Raises:
        DiptychError: it is no causal language model, or a tensor of these is missing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    trusted = pretrained.trusts(directory)
    with pretrained.loading(directory), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=trusted)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
    stored = StoredTensors(directory)
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    _read(embedding, model, stored)
    _read(lens.final_norm(model), model, stored)
    if unembedding is not embedding:
        is_tied = config.get_text_config().tie_word_embeddings
        _read(unembedding, model, stored, tied=embedding.weight if is_tied else None)
    return model.eval()


def _read(module: nn.Module, model: nn.Module, stored: StoredTensors, tied: nn.Parameter | None = None) -> None:
    """Give the parameters of a module of the model their stored values; `tied` is its weight if none is stored."""
    place = next(name for name, candidate in model.named_modules() if candidate is module)
    for name, _ in list(module.named_parameters(recurse=False)):
        key = key_of(f"{place}.{name}")
        key = key if key in stored else SAVED_AS.get(key, key)
        if key in stored:
            with stored.tensor(key) as values:
                parameter = nn.Parameter(values.float().clone(), requires_grad=False)
        elif tied is not None and name == "weight":
            parameter = tied
        else:
            raise DiptychError(f"{stored.directory}: has no tensor {key}; make the model again")
        setattr(module, name, parameter)
