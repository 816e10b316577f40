"""Merging a PEFT adapter into its parent's weights, so that later stages read it as the plain model that it makes.

    W' = W + s B A                                  LoRA, s = alpha / r (rank-stabilised: alpha / sqrt(r))
    W' = m (W + s B A) / ||W + s B A||              DoRA, m and the norm for each output

    merge("results/models/base", "results/adapters/tuned", "results/models/tuned", spec=spec)

peft itself loads and merges the adapter, in float32, and the merged model must then give on a few tokens the logits
that the parent with its adapter gives. Weights are stored in the parent's precision, which rounds W': merge.json in
the new directory holds how much, relative to W' and to the change W' - W, for each changed weight and for all of them.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from diptych.models import adapters, chat_templates, pretrained
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import artifacts, manifest
from diptych.storage.canonical import canonical_json

RECORD = "merge.json"
"""File of a merged model that says what was merged, and how much storing it rounded."""
CHECKED_TOKENS = 32
"""Tokens on which the merged model is compared with the parent and its adapter."""
MERGE_TOLERANCE = 1e-3
"""Largest relative difference of these logits: rounding in float32 gives about 1e-6, an adapter that acts otherwise
than by a change of weights gives as much as it does."""
STEP = 7919
"""Distance of the checked token ids, modulo the vocabulary: a prime, so that they are spread over it."""
CHANGE_BASE = ("pissa", "olora")
"""Initialisations that take a factorisation of the parent's weights out of them when training begins."""


class Sums(NamedTuple):
    """Sums over the entries of weights.

    Attributes:
        parent: of parent^2.
        merged: of merged^2.
        change: of (merged - parent)^2.
        rounding: of (stored - merged)^2.
        largest: |stored - merged|, not summed.
        changed: entries with merged != parent.
        lost: of these, those with stored = parent.
    """

    parent: float
    merged: float
    change: float
    rounding: float
    largest: float
    changed: int
    lost: int


def merge(parent_dir: str | Path, adapter_dir: str | Path, out_dir: str | Path, *, spec: Mapping[str, Any]) -> None:
    """Write the model that an adapter makes of its parent.

    Args:
        parent_dir: the model that the adapter is added to.
        adapter_dir: as `adapters.fetch` made it.
        out_dir: the new model's directory; gets merge.json too, and the adapter's chat template if it brings one.
        spec: what the result depends on.

    Raises:
        DiptychError: the adapter's weights do not fit the parent, or it cannot be merged.
    """
    manifest.check(adapter_dir)
    source = _source(adapter_dir)
    config = adapters.read_config(Path(adapter_dir), source)
    notes = [*_base_notes(config, parent_dir), *_config_notes(config)]
    for note in notes:
        logs.logger.warning("%s: %s", source, note)
    merged, difference = _merged(parent_dir, Path(adapter_dir), config, source)
    dtype = pretrained.stored_dtype(parent_dir)
    record = {
        "adapter": source,
        "kind": "DoRA" if config.get("use_dora") else "LoRA",
        "rank": config.get("r"),
        "sha256": manifest.sha256(Path(adapter_dir) / adapters.WEIGHTS),
        "base": config.get("base_model_name_or_path"),
        "base_revision": config.get("revision"),
        "notes": notes,
        "logit_difference": difference,
        "stored_dtype": dtype,
        **_rounding(merged, pretrained.load(parent_dir, dtype=dtype), getattr(torch, dtype)),
    }
    with pretrained.saving(merged, parent_dir, out_dir, spec=spec, dtype=dtype) as directory:
        artifacts.write_text(directory / RECORD, canonical_json(record) + "\n")
        template = Path(adapter_dir) / chat_templates.FILE
        if template.is_file():
            (directory / chat_templates.FILE).write_bytes(template.read_bytes())
    logs.logger.info(
        "merged %s: the changed weights move by %.3g of their norm; storing them as %s rounds by %.3g of that",
        *(source, record["change"], dtype, record["rounding"]["of_change"]),
    )


# --- what it was trained on -----------------------------------------------------------------------------------------


def _source(adapter_dir: str | Path) -> str:
    """Name of an adapter for messages: its directory, or its id, folder and revision on the hub."""
    settings = manifest.read(adapter_dir)["spec"].get("settings", {}).get("source", {})
    if settings.get("id"):
        folder = f"/{settings['subfolder']}" if settings.get("subfolder") else ""
        return f"{settings['id']}{folder} at {settings['revision']}"
    return str(settings.get("path") or adapter_dir)


def _base_notes(config: Mapping[str, Any], parent_dir: str | Path) -> Iterator[str]:
    """A warning if the adapter names another base on the hub than its parent is."""
    base = str(config.get("base_model_name_or_path") or "")
    source = manifest.read(parent_dir)["spec"].get("settings", {}).get("source", {})
    parent = source.get("id") if source.get("kind") == "hub" else None
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", base) is not None
    if parent and is_hub_id and base.casefold() != str(parent).casefold():
        yield f"was trained on {base}, and its parent here is {parent}"


def _config_notes(config: Mapping[str, Any]) -> Iterator[str]:
    """Warnings about keys of adapter_config.json that peft does not know, and about a changed base."""
    from peft import LoraConfig, __version__

    unknown = sorted(key for key in set(config) - set(LoraConfig.__dataclass_fields__) if config[key])
    if unknown:
        yield f"its config has keys that peft {__version__} does not know, which are ignored: {', '.join(unknown)}"
    start = str(config.get("init_lora_weights")).lower()
    if start in CHANGE_BASE:
        yield (
            f"its training began by changing the base's own weights (init_lora_weights {start}), which is repeated "
            "here; a converted adapter (path_initial_model_for_weight_conversion) needs no such step"
        )


# --- loading and merging --------------------------------------------------------------------------------------------


def _merged(parent_dir: str | Path, adapter_dir: Path, config: Mapping[str, Any], source: str) -> tuple[Any, float]:
    """The merged model in float32, and how far its logits are from those of the parent with its adapter, relatively."""
    model = pretrained.load(parent_dir)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _one_line(source):
        torch.manual_seed(0)
        adapted = _with_adapter(model, config, adapter_dir, source)
        expected = _logits(adapted, parent_dir)
        tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
        _untie(adapted.base_model.model)
        merged = adapted.merge_and_unload(safe_merge=True)
        if tied:
            _tie(merged, always=bool(config.get("ensure_weight_tying")))
        difference = float((_logits(merged, parent_dir) - expected).norm() / expected.norm())
    if not difference <= MERGE_TOLERANCE:
        raise DiptychError(
            f"{source}: merged, it gives other logits than beside its parent's weights (they differ by "
            f"{difference:.2g}), so it is no change of weights; only LoRA and DoRA that can be merged are read"
        )
    return merged, difference


def _with_adapter(model: Any, config: Mapping[str, Any], adapter_dir: Path, source: str) -> Any:
    """The parent with its adapter beside the weights, as peft runs it; every weight of the adapter has its place."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    known = {key: value for key, value in config.items() if key in LoraConfig.__dataclass_fields__}
    known.pop("runtime_config", None)
    adapted = get_peft_model(model, LoraConfig(**{**known, "inference_mode": True}))
    report = set_peft_model_state_dict(adapted, load_file(adapter_dir / adapters.WEIGHTS))
    state = adapted.state_dict()
    stored = {state[name].data_ptr() for name in set(state) - set(report.missing_keys)}
    # Of two tied weights one is stored.
    missing = [name for name in report.missing_keys if ".default" in name and state[name].data_ptr() not in stored]
    for names, problem in ((missing, "it lacks:"), (report.unexpected_keys, "have no place in the parent:")):
        if names:
            where = f"{problem} {sorted(names)[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            raise DiptychError(f"{source}: does not fit its parent (weights that {where}); check `parent`")
    return adapted.eval()


@contextmanager
def _one_line(source: str) -> Iterator[None]:
    """Errors of peft as one line; its warnings are not shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, NotImplementedError, ImportError) as error:
        if pretrained.is_out_of_memory(error):
            raise pretrained.OutOfMemoryError(f"{source}: out of memory while it is merged") from error
        lines = str(error).splitlines()
        message = next((line.strip() for line in lines if "size mismatch" in line), first_line(error))
        raise DiptychError(
            f"{source}: does not fit its parent ({message.rstrip('.')}); check `parent` and the adapter"
        ) from error


def _logits(model: Any, directory: str | Path) -> torch.Tensor:
    """Logits [n, vocabulary] on `CHECKED_TOKENS` token ids spread over the vocabulary."""
    shape = pretrained.describe(directory)
    ids = torch.arange(min(CHECKED_TOKENS, shape["context"])) * STEP % shape["vocabulary"]
    logits: torch.Tensor = model(input_ids=ids[None], use_cache=False).logits[0]
    return logits


def _untie(model: Any) -> None:
    """Give the output embedding a weight of its own if it shares the input's and the adapter changes one of the two."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if None in ends:
        return
    first, last = (getattr(end, "base_layer", end) for end in ends)
    if any(hasattr(end, "base_layer") for end in ends) and first.weight is last.weight:
        last.weight = nn.Parameter(last.weight.detach().clone(), requires_grad=False)


def _tie(model: Any, *, always: bool) -> None:
    """Make input and output embedding of a model that tied them one weight again if they are equal, or `always`."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    tied = always or torch.equal(first.weight, last.weight)
    if tied:
        last.weight = first.weight
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = tied


# --- rounding -------------------------------------------------------------------------------------------------------


def _rounding(merged: Any, parent: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Size of the change of a merged model's weights, and of the rounding when they are stored in `dtype`.

    Returns:
        `change`: ||W' - W|| / ||W|| over all changed weights (Frobenius norms); of the rounding `relative`:
        ||stored - W'|| / ||W'||, `of_change`: ||stored - W'|| / ||W' - W||, `largest`: of an entry, `lost`: share of
        the changed entries that are stored as the parent's value; the same under `weights` for each changed weight.
    """
    before = dict(parent.named_parameters(remove_duplicate=False))
    sums = {
        name: _sums(name, weight.detach(), before[name].detach(), dtype)
        for name, weight in merged.named_parameters()
        if name in before and not torch.equal(weight, before[name].float())
    }
    columns = list(zip(*sums.values(), strict=True)) or [(0,)] * len(Sums._fields)
    named = zip(Sums._fields, columns, strict=True)
    total = Sums(*(max(column) if name == "largest" else sum(column) for name, column in named))
    return {**_shares(total), "weights": {name: _shares(of) for name, of in sums.items()}}


def _sums(name: str, merged: torch.Tensor, parent: torch.Tensor, dtype: torch.dtype) -> Sums:
    stored = merged.to(dtype)
    if not stored.isfinite().all():
        raise DiptychError(f"{name}: the merged weight exceeds what {str(dtype).removeprefix('torch.')} can hold")
    change = merged - parent.float()
    rounding = stored.float() - merged
    return Sums(
        float(parent.double().square().sum()),
        float(merged.double().square().sum()),
        float(change.double().square().sum()),
        float(rounding.double().square().sum()),
        float(rounding.abs().max()),
        int((change != 0).sum()),
        int(((change != 0) & (stored == parent)).sum()),
    )


def _shares(of: Sums) -> dict[str, Any]:
    rounding = {
        "relative": _ratio(of.rounding, of.merged) ** 0.5,
        "of_change": _ratio(of.rounding, of.change) ** 0.5,
        "largest": of.largest,
        "lost": _ratio(of.lost, of.changed),
    }
    return {"change": _ratio(of.change, of.parent) ** 0.5, "rounding": rounding}


def _ratio(part: float, whole: float) -> float:
    """part / whole; 0 of nothing."""
    return part / whole if whole else 0.0
