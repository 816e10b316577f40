"""Where published dictionaries come from: SAELens' releases, EleutherAI sparsify directories, SAELens directories.

    fetch("results/dictionaries/small", spec=spec,
          source={"kind": "saelens", "release": "gpt2-small-res-jb", "id": "blocks.8.hook_resid_pre"})

Whatever the source, the result is a SAELens directory in float32 that `dictionaries.load` reads.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diptych import DiptychError, artifacts, dictionaries, models

SPARSIFY_WEIGHTS = "sae.safetensors"


def fetch(out_dir: str | Path, *, spec: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Bring a dictionary from its source into `out_dir`.

    Args:
        out_dir: the dictionary's directory, written whole or not at all.
        spec: what the result depends on.
        source: `kind` and its settings: `saelens` {release, id}, `sparsify` {path} or `directory` {path}.

    Raises:
        DiptychError: unknown release or id (the nearest is suggested), missing files, or a kind that is not read.
    """
    with artifacts.create_directory(out_dir, "dictionary", spec) as directory:
        match source["kind"]:
            case "saelens":
                _from_release(directory, source["release"], source["id"])
            case "directory":
                _from_directory(directory, Path(source["path"]))
            case "sparsify":
                _from_sparsify(directory, Path(source["path"]))
            case kind:
                raise DiptychError(f"dictionary source: unknown kind {kind!r}; use saelens, sparsify or directory")
        dictionaries.load(directory)


def _from_release(directory: Path, release: str, name: str) -> None:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    table = get_pretrained_saes_directory()
    if release not in table:
        raise DiptychError(f"dictionary: SAELens has no release {release!r}{_nearest(release, table)}")
    if name not in table[release].saes_map:
        known = table[release].saes_map
        raise DiptychError(f"dictionary: release {release!r} has no id {name!r}{_nearest(name, known)}")
    try:
        sae = SAE.from_pretrained(release, name, device="cpu", dtype="float32")
    except (OSError, ValueError) as error:
        raise DiptychError(f"dictionary {release} {name}: cannot be fetched ({models.first_line(error)})") from error
    _save(sae, directory)


def _from_directory(directory: Path, path: Path) -> None:
    from sae_lens import SAE

    for name in (dictionaries.CONFIG_FILE, dictionaries.WEIGHTS_FILE):
        if not (path / name).is_file():
            raise DiptychError(f"{path}: holds no {name}; not a SAELens directory")
    _save(SAE.load_from_disk(path, device="cpu", dtype="float32"), directory)


def _save(sae: Any, directory: Path) -> None:
    """SAELens' files with sorted keys; published ones have theirs in any order."""
    _, config_path = sae.save_model(directory)
    _write_config(directory, json.loads(Path(config_path).read_text(encoding="utf-8")))


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
            "metadata": {"sae_lens_version": "6.0.0", "source": "sparsify"},
        },
    )


def _write_config(directory: Path, config: Mapping[str, Any]) -> None:
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / dictionaries.CONFIG_FILE).write_text(text, encoding="utf-8")
    for file in directory.iterdir():
        file.chmod(0o644)


def _nearest(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.0)
    return f"; did you mean {match[0]!r}?" if match else ""
