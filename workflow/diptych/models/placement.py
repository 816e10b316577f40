"""A model on a device, or spread over several: the first blocks on the first one, the last on the last.

    place(model, "cuda:0")
    place(model, ["cuda:0", "cuda:1"])     # for a model that is larger than one GPU

A spread model takes token ids on any device and gives its outputs where these are; what a block gets is moved to the
block's device, where a hook sees it. It computes what the model computes on one device.
"""

from collections.abc import Sequence
from typing import Any

Devices = str | Sequence[str]
"""A torch device, or those that a model is spread over."""


def first(device: Devices) -> str:
    """The device that a model's inputs are made on."""
    return device if isinstance(device, str) else device[0]


def place(model: Any, device: Devices) -> Any:
    """The transformers model on a device, or spread over several in shares of about equal bytes.

    No block is divided: each has its weights and its computation on one device.
    """
    devices = [device] if isinstance(device, str) else list(device)
    if len(devices) == 1:
        return model.to(devices[0])
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import compute_module_sizes, get_max_layer_size

    whole = model._no_split_modules
    size = compute_module_sizes(model)[""]
    largest, _ = get_max_layer_size(list(model.named_children()), compute_module_sizes(model), whole)
    share = -(-size // len(devices))
    room = dict.fromkeys(range(len(devices)), share) | {0: share + largest, len(devices) - 1: 2 * size}
    numbers = infer_auto_device_map(model, room, no_split_module_classes=whole)
    return dispatch_model(
        model,
        {name: devices[int(number)] for name, number in numbers.items()},
        main_device=devices[0],
        skip_keys=model._skip_keys_device_placement,
        force_hooks=True,
    )


def gather(model: Any, device: Any) -> None:
    """Put what is left of a spread model on one torch device; a model that is not spread stays as it is."""
    if not hasattr(model, "hf_device_map"):
        return
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(model, recurse=True)
    for part in model.children():
        part.to(device)
