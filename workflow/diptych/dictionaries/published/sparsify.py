"""EleutherAI's sparsify directories (cfg.json, sae.safetensors) as SAELens spells them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diptych.dictionaries import saelens_format
from diptych.dictionaries.published import hookpoints
from diptych.dictionaries.saelens_format import Weights
from diptych.runtime.errors import DiptychError, first_line

WEIGHTS_FILE = "sae.safetensors"
FILES = (saelens_format.CONFIG_FILE, WEIGHTS_FILE)
TENSORS: Mapping[str, str] = {
    "encoder.weight": "W_enc",
    "encoder.bias": "b_enc",
    "W_dec": "W_dec",
    "b_dec": "b_dec",
}


def read(directory: str | Path, where: str) -> tuple[dict[str, Any], Weights]:
    """Config and float32 weights, by SAELens' names, of one hookpoint; the folder's name says which.

    W_dec is stored [F, d] and b_dec is subtracted from the input. (SAELens' own loader transposes W_dec twice and
    leaves b_dec on the input.)

    Args:
        directory: of the hookpoint, such as .../layers.3.
        where: how an error calls the dictionary.

    Raises:
        DiptychError: a file is missing or damaged, or it is no top-k autoencoder.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(directory)
    for name in FILES:
        if not (path / name).is_file():
            raise DiptychError(f"{where}: holds no {name}; not a sparsify directory")
    config = saelens_format.read_json(path, saelens_format.CONFIG_FILE, where)
    if config.get("activation", "topk") != "topk" or config.get("transcode") or config.get("skip_connection"):
        raise DiptychError(f"{where}: only sparsify's top-k autoencoders are read, no transcoders and no groupmax")
    try:
        stored = load_file(path / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise DiptychError(f"{where}: {WEIGHTS_FILE} is cut short ({first_line(error)}); fetch it again") from None
    if missing := [name for name in TENSORS if name not in stored]:
        raise DiptychError(f"{where}: {WEIGHTS_FILE} has no {missing[0]}; not a sparsify autoencoder")
    weights = {ours: stored[name].float().numpy() for name, ours in TENSORS.items()}
    weights["W_enc"] = np.ascontiguousarray(weights["W_enc"].T)
    saelens_format.check_weights(weights, {"architecture": "topk"}, where)
    hook = hookpoints.hook_of(path.name)
    metadata = {"source": "sparsify"} | ({"hook_name": hook} if hook else {})
    return saelens_format.config_of("topk", weights, metadata, k=int(config["k"])), weights
