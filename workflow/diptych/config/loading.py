"""Loading of a config into a checked `Study`.

loading.check_keys(["config/config.yaml"])
study = loading.load(yaml.safe_load(open("config/config.yaml")))
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from diptych.config import checks
from diptych.config.sections.models import Model
from diptych.config.sections.strict import ConfigError, first_error
from diptych.config.seeds import expand_dictionaries, n_seeds_of, with_repeats
from diptych.config.study import Study
from diptych.config.sweeps import expand
from diptych.runtime import precision

YAML_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_keys(paths: Iterable[str | Path]) -> None:
    """Check that no mapping of these YAML files has a key twice: YAML's reader would keep the last one silently.

    Raises:
        ConfigError: naming the file, the key and both lines.
    """
    for path in paths:
        with Path(path).open("rb") as file:
            root = yaml.compose(file, Loader=YAML_LOADER)
        for key, first, second in _repeated_keys(root, ""):
            name = os.path.relpath(path)
            raise ConfigError(f"{name}: {key} is given twice, in lines {first} and {second}; take one out")


def _repeated_keys(node: Any, prefix: str) -> Iterator[tuple[str, int, int]]:
    """(key, line, line) of every repeated key below a YAML node; nodes behind an alias are read where they stand."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item, prefix)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in lines:
                yield f"{prefix}{key.value}", lines[key.value], line
            lines[key.value] = line
            yield from _repeated_keys(value, f"{prefix}{key.value}.")


def load(config: Mapping[str, Any]) -> Study:
    """The study of a config, with types and references checked, sweeps and seeds expanded, and `dtype: auto` resolved.

    Raises:
        ConfigError: naming the first key that is wrong, and what to do.
        DiptychError: `auto` cannot be resolved here.
    """
    try:
        study = Study.model_validate(config)
    except ValidationError as error:
        raise ConfigError(first_error(error, Study)) from None
    n_seeds = n_seeds_of(study.dictionaries)
    study = study.model_copy(update={"dictionaries": expand_dictionaries(study.dictionaries)})
    checks.check(study)
    study = study.model_copy(update={"models": _with_dtypes(study)})
    return with_repeats(study.model_copy(update={"crosscoders": expand(study.crosscoders)}), n_seeds)


def _with_dtypes(study: Study) -> dict[str, Model]:
    """The models with the precision that `dtype: auto` stands for on this machine."""
    models = dict(study.models)
    for alias, model in models.items():
        if model.dtype == "auto":
            models[alias] = model.model_copy(update={"dtype": precision.fast_dtype(study.device)})
    return models
