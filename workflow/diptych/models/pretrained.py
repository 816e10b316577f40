"""Models on disk: what one is, how it is loaded, how a changed one is saved.

A model of a study is one plain directory, wherever it came from, so that every later stage reads them all alike:

    results/models/base/
        config.json  model.safetensors      what `save_pretrained` writes, without the path it came from
        tokenizer.json  chat_template.jinja ...
        manifest.json                        the spec it was made from and a hash of each file

    models.describe("results/models/base")["n_layers"]        # 30, from config.json alone
    model = models.load("results/models/base", dtype="float32", device="cpu")

torch and transformers are imported where a model is loaded, not by this module: many stages only describe one.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypedDict

from diptych.models.placement import Devices, place
from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import artifacts, manifest

Dtype = Literal["bfloat16", "float16", "float32"]

TOKENIZER_PATTERNS = (
    "tokenizer*.json",
    "*.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "generation_config.json",
)
PATH_KEYS = ("_name_or_path", "_model_name_or_path", "name_or_path", "is_local", "local_files_only", "_commit_hash")
"""Keys of the JSON files that tell where a model was read, not what it is."""
SHAPE_KEYS: Mapping[str, tuple[str, ...]] = {
    "n_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "n_ctx"),
}
"""Names that architectures give the same thing in config.json."""
NO_LIMIT = 2**31 - 1
"""Context of a model whose config.json names none, as that of a recurrent one (Mamba)."""


class OutOfMemoryError(DiptychError):
    """A model does not fit the memory."""


class Description(TypedDict):
    """A model's shape: blocks, residual width, rows of the embedding, longest sequence, transformers' model type.

    `context` is `NO_LIMIT` for a model that reads sequences of any length.
    """

    n_layers: int
    width: int
    vocabulary: int
    context: int
    architecture: str


def describe(directory: str | Path) -> Description:
    """The shape of the model in `directory`, read from config.json without torch.

    Raises:
        DiptychError: there is no config.json, or it does not say the shape.
    """
    config = _read_config(Path(directory))
    inner: Mapping[str, Any] = config.get("text_config", config)
    return Description(
        n_layers=_shape(inner, "n_layers", directory),
        width=_shape(inner, "width", directory),
        vocabulary=_shape(inner, "vocabulary", directory),
        context=_shape(inner, "context", directory, otherwise=NO_LIMIT),
        architecture=str(inner.get("model_type", config.get("model_type", "unknown"))),
    )


def load(directory: str | Path, *, dtype: Dtype = "float32", device: Devices = "cpu") -> Any:
    """The causal language model in `directory`, in evaluation mode, read from disk only.

    Args:
        directory: as `model_sources.fetch` or a function of `derive` made it.
        dtype: precision of the weights.
        device: a torch device, or those that it is spread over.

    Raises:
        OutOfMemoryError: it does not fit the memory.
        DiptychError: no model there, or files damaged, missing or of other shapes than config.json says.
    """
    import torch
    from transformers import AutoModelForCausalLM

    manifest.check(directory)
    trusted = trusts(directory)
    with loading(directory):
        model, report = AutoModelForCausalLM.from_pretrained(
            str(directory),
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=trusted,
            output_loading_info=True,
        )
        model = place(model.eval(), device)
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise DiptychError(f"{directory}: {len(names)} weights are missing, the first is {names[0]!r}; make it again")
    return model


@contextmanager
def loading(directory: str | Path) -> Iterator[None]:
    """Errors of what loads the model in `directory`, each as one line.

    Raises:
        OutOfMemoryError: the weights do not fit the memory.
        DiptychError: files are broken, or not what config.json says.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, MemoryError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                f"{directory}: out of memory while the model is loaded; set its `dtype` to bfloat16, or use a machine "
                "with more memory"
            ) from error
        raise unreadable(directory, error) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether something failed for lack of memory, on a GPU or on the CPU (whose allocator has no error class)."""
    import torch

    short = "can't allocate memory" in str(error) or "Cannot allocate memory" in str(error)
    return short or isinstance(error, torch.OutOfMemoryError | MemoryError)


def trusts(directory: str | Path) -> bool:
    """Whether the model's own Python code is run: it is in the directory only where its source was trusted."""
    path = Path(directory)
    return any(path.glob("*.py")) and "auto_map" in _read_config(path)


def unreadable(directory: str | Path, error: BaseException) -> DiptychError:
    """The error for a model that transformers cannot load."""
    if "auto_map" in _read_config(Path(directory)) and not trusts(directory):
        return DiptychError(
            f"{directory}: the model brings Python code of its own; read it and set `trust_remote_code: true` of the "
            "model, or choose another"
        )
    return DiptychError(f"{directory}: cannot be loaded ({first_line(error)}); make the model again")


@contextmanager
def create(out_dir: str | Path, spec: Mapping[str, Any]) -> Iterator[Path]:
    """A directory to write a model into; it takes its place, plain and with its manifest, when the block ends."""
    with artifacts.create_directory(out_dir, "model", spec) as directory:
        yield directory
        _remove_paths(directory)


@contextmanager
def saving(
    model: Any, parent_dir: str | Path, out_dir: str | Path, *, spec: Mapping[str, Any], dtype: Dtype
) -> Iterator[Path]:
    """Write a model derived from the one in `parent_dir`; the block may add files of its own to the directory.

    Args:
        model: a transformers model with the parent's architecture.
        parent_dir: whose tokenizer files and chat template are copied.
        out_dir: the new model's directory.
        spec: what it was made from.
        dtype: precision on disk.
    """
    import torch

    with create(out_dir, spec) as directory:
        model.to(getattr(torch, dtype)).save_pretrained(directory)
        for file in sorted(Path(parent_dir).iterdir()):
            if file.is_file() and any(file.match(pattern) for pattern in (*TOKENIZER_PATTERNS, "*.py")):
                shutil.copyfile(file, directory / file.name)
        yield directory


def stored_dtype(directory: str | Path) -> Dtype:
    """Precision in which the weights in `directory` are stored; float32 where config.json does not say."""
    config = _read_config(Path(directory))
    dtype: Dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    return dtype


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not path.is_file():
        raise DiptychError(f"{directory}: holds no config.json; name a directory as save_pretrained writes it")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DiptychError(f"{path}: not JSON ({error}); make the model again") from error
    return config


def _shape(config: Mapping[str, Any], what: str, directory: str | Path, *, otherwise: int | None = None) -> int:
    for key in SHAPE_KEYS[what]:
        if key in config:
            return int(config[key])
    if otherwise is not None:
        return otherwise
    raise DiptychError(f"{directory}/config.json: none of {', '.join(SHAPE_KEYS[what])} is there; not a causal model?")


def _remove_paths(directory: Path) -> None:
    """Take out of the JSON files where the model was read; give all files that are ours alone the usual mode."""
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = directory / name
        if path.is_file():
            values = json.loads(path.read_text(encoding="utf-8"))
            remaining = {key: value for key, value in values.items() if key not in PATH_KEYS}
            path.write_text(
                json.dumps(remaining, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    for file in directory.iterdir():
        if file.is_dir() or file.stat().st_nlink == 1:
            file.chmod(0o755 if file.is_dir() else 0o644)
