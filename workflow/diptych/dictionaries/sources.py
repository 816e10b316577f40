"""Where published dictionaries come from: SAELens' releases, EleutherAI sparsify directories, SAELens directories.

    fetch("results/dictionaries/small", spec=spec,
          source={"kind": "saelens", "release": "gpt2-small-res-jb", "id": "blocks.8.hook_resid_pre"},
          reader=Reader("base", "openai-community/gpt2", "blocks.7.hook_resid_post", models.describe(...)))

Whatever the source, the result is a SAELens directory in float32 that `dictionaries.load` reads. What it says of
itself (its hook, its model) must fit the model and site that the config gives it: a dictionary one layer off reads
well enough to go unnoticed.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diptych.dictionaries import releases
from diptych.dictionaries import sae as dictionaries
from diptych.dictionaries.sae import Dictionary
from diptych.models import pretrained
from diptych.models.sites import resolve_site
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import artifacts

SPARSIFY_WEIGHTS = "sae.safetensors"
_HOOKPOINT = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)(\.mlp)?")
_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|in|out)")


class Reader(NamedTuple):
    """What the config says that a dictionary reads: a model of the study, its name elsewhere if known, and a site."""

    model: str
    model_name: str | None
    site: str
    shape: pretrained.Description


def fetch(
    out_dir: str | Path, *, spec: Mapping[str, Any], source: Mapping[str, Any], reader: Reader | None = None
) -> None:
    """Bring a dictionary from its source into `out_dir`.

    Args:
        out_dir: the dictionary's directory, written whole or not at all.
        spec: what the result depends on.
        source: `kind` and its settings: `saelens` {release, id}, `sparsify` {path, or id, hookpoint and revision} or
            `directory` {path}.
        reader: what the dictionary must fit; None checks nothing.

    Raises:
        DiptychError: unknown release or id (the nearest is suggested), missing files, a kind that is not read, or a
            dictionary for another hook or model.
    """
    with artifacts.create_directory(out_dir, "dictionary", spec) as directory:
        match source["kind"]:
            case "saelens":
                _from_release(directory, source["release"], source["id"])
            case "directory":
                _from_directory(directory, Path(source["path"]))
            case "sparsify":
                _from_sparsify(directory, _sparsify_directory(source))
            case kind:
                raise DiptychError(f"dictionary source: unknown kind {kind!r}; use saelens, sparsify or directory")
        dictionary = dictionaries.load(directory)
        if reader is not None:
            check(dictionary, reader, f"dictionaries.{Path(out_dir).name}")


def check(dictionary: Dictionary, reader: Reader, where: str) -> None:
    """Compare what a dictionary says of itself with what it is to read; what it does not say is logged.

    Raises:
        DiptychError: another hook, another model or another width.
    """
    expected = resolve_site(reader.site, reader.shape["n_layers"])
    hook_name: str | None = dictionary.metadata.get("hook_name")
    if hook_name is None:
        logs.logger.warning("%s: its metadata names no hook; site %s is not checked", where, expected)
    elif canonical(resolve_site(hook_name, reader.shape["n_layers"])) != canonical(expected):
        raise DiptychError(
            f"{where}.site: {reader.site!r} is {expected} in {reader.model}, but this dictionary reads {hook_name}; "
            "set the site that it reads or take another id"
        )
    named: str | None = dictionary.metadata.get("model_name")
    if named is None or reader.model_name is None:
        logs.logger.warning("%s: made for %s, read on %s; nothing to compare", where, named, reader.model)
    elif not same_model(named, reader.model_name):
        raise DiptychError(
            f"{where}.model: {reader.model!r} is {reader.model_name}, but this dictionary was made for {named}; "
            f"name that model, or set trained_on: {named} if it is to be read on this one"
        )
    if _RESIDUAL.fullmatch(expected) and dictionary.width != reader.shape["width"]:
        raise DiptychError(
            f"{where}: reads rows of width {dictionary.width}, but {reader.model} has width {reader.shape['width']}; "
            "take the dictionary of this model"
        )


def canonical(hook: str) -> str:
    """A hook by one name: the residual stream before a block is that after the block before it.

    >>> canonical("blocks.8.hook_resid_pre")
    'blocks.7.hook_resid_post'
    """
    match = _RESIDUAL.fullmatch(hook)
    if not match:
        return hook
    block, is_input = int(match[1]), match[2] in ("resid_pre", "in")
    return f"blocks.{block - 1}.hook_resid_post" if is_input and block else f"blocks.{block}.hook_{match[2]}"


def same_model(one: str, other: str) -> bool:
    """Whether two names (a hub id, TransformerLens' short name) mean one model."""
    if _bare(one) == _bare(other):
        return True
    from transformer_lens.loading_from_pretrained import MODEL_ALIASES

    official = {_bare(alias): _bare(name) for name, aliases in MODEL_ALIASES.items() for alias in aliases}
    return official.get(_bare(one), _bare(one)) == official.get(_bare(other), _bare(other))


def _bare(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _from_release(directory: Path, release: str, name: str) -> None:
    releases.check(release, name)
    from sae_lens import SAE

    try:
        sae = SAE.from_pretrained(release, name, device="cpu", dtype="float32")
    except (OSError, ValueError) as error:
        raise DiptychError(f"dictionary {release} {name}: cannot be fetched ({first_line(error)})") from error
    _save(sae, directory)


def _from_directory(directory: Path, path: Path) -> None:
    """A SAELens directory; SAELens itself is only asked where the weights are not float32."""
    for name in (dictionaries.CONFIG_FILE, dictionaries.WEIGHTS_FILE):
        if not (path / name).is_file():
            raise DiptychError(f"{path}: holds no {name}; not a SAELens directory")
    config = json.loads((path / dictionaries.CONFIG_FILE).read_text(encoding="utf-8"))
    if config.get("dtype") == "float32":
        shutil.copyfile(path / dictionaries.WEIGHTS_FILE, directory / dictionaries.WEIGHTS_FILE)
        _write_config(directory, config)
        return
    from sae_lens import SAE

    _save(SAE.load_from_disk(path, device="cpu", dtype="float32"), directory)


def _save(sae: Any, directory: Path) -> None:
    """SAELens' files with sorted keys; published ones have theirs in any order."""
    _, config_path = sae.save_model(directory)
    config = json.loads(Path(config_path).read_text(encoding="utf-8"))
    _write_config(directory, config)
    loading = config.get("metadata", {}).get("model_from_pretrained_kwargs") or {}
    if loading.get("center_writing_weights"):
        _read_centred(directory)


def _read_centred(directory: Path) -> None:
    """Let a dictionary of centred activations read the model's own: x C instead of x, C = I - 11^T/d.

    TransformerLens can load a model so that its residual stream has mean zero over the coordinates, and some
    dictionaries were trained on that. (x C - b_in) W_enc = (x - b_in) C W_enc + (b_in C - b_in) W_enc.
    """
    from safetensors.numpy import load_file, save_file

    path = directory / dictionaries.WEIGHTS_FILE
    weights = load_file(path)
    b_in = dictionaries.load(directory).b_in
    weights["b_enc"] = weights["b_enc"] - b_in.mean() * weights["W_enc"].sum(axis=0)
    weights["W_enc"] = weights["W_enc"] - weights["W_enc"].mean(axis=0)
    save_file({name: np.ascontiguousarray(values) for name, values in weights.items()}, path)
    path.chmod(0o644)


def _sparsify_directory(source: Mapping[str, Any]) -> Path:
    """The directory of one hookpoint: on disk, or out of the hub's cache."""
    if source.get("path"):
        return Path(str(source["path"]))
    from huggingface_hub import snapshot_download

    folder = str(source["hookpoint"])
    try:
        snapshot = snapshot_download(
            source["id"], revision=source["revision"], allow_patterns=[f"{folder}/*", "*.json"]
        )
    except (OSError, ValueError) as error:
        raise DiptychError(f"dictionary {source['id']}: cannot be fetched ({first_line(error)})") from error
    return Path(snapshot) / folder


def _from_sparsify(directory: Path, path: Path) -> None:
    """A sparsify directory: W_dec is stored [F, d] and b_dec is subtracted from the input.

    SAELens' own loader transposes W_dec twice and leaves b_dec on the input.
    """
    from safetensors.torch import load_file, save_file

    for name in (dictionaries.CONFIG_FILE, SPARSIFY_WEIGHTS):
        if not (path / name).is_file():
            raise DiptychError(f"{path}: holds no {name}; not a sparsify directory")
    config = json.loads((path / dictionaries.CONFIG_FILE).read_text(encoding="utf-8"))
    if config.get("activation", "topk") != "topk" or config.get("transcode") or config.get("skip_connection"):
        raise DiptychError(f"{path}: only sparsify's top-k autoencoders are read, no transcoders and no groupmax")
    stored = load_file(path / SPARSIFY_WEIGHTS)
    weights = {
        "W_enc": stored["encoder.weight"].T,
        "b_enc": stored["encoder.bias"],
        "W_dec": stored["W_dec"],
        "b_dec": stored["b_dec"],
    }
    save_file(
        {name: values.float().contiguous() for name, values in weights.items()}, directory / dictionaries.WEIGHTS_FILE
    )
    n_features, width = (int(size) for size in np.shape(stored["W_dec"]))
    _write_config(
        directory,
        {
            "architecture": "topk",
            "k": int(config["k"]),
            "d_in": width,
            "d_sae": n_features,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": {"sae_lens_version": "6.0.0", "source": "sparsify"} | _hook_of(path.name),
        },
    )


def _write_config(directory: Path, config: Mapping[str, Any]) -> None:
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / dictionaries.CONFIG_FILE).write_text(text, encoding="utf-8")
    for file in directory.iterdir():
        file.chmod(0o644)


def _hook_of(hookpoint: str) -> dict[str, str]:
    """The hook of a sparsify folder (`layers.3`, `layers.3.mlp`), if its name tells."""
    match = _HOOKPOINT.fullmatch(hookpoint)
    return {"hook_name": f"blocks.{match[1]}.hook_{'mlp_out' if match[2] else 'resid_post'}"} if match else {}
