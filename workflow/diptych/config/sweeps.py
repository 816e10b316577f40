"""Expansion of sweeps and ceilings: one entry of the config's `crosscoders` becomes several crosscoders.

    expand({"tuned": Crosscoder(models=("base", "tuned"), corpus="text", sweep=Sweep(k=(16, 32)), ceiling=True)})
    # {"tuned.0": k = 16, "tuned.0.ceiling": base with itself, "tuned.1": k = 32, "tuned.1.ceiling": ...}

Crosscoders whose ceilings would be equal share one, that of the first. An alias is built from positions in the lists,
never from values, so that a path does not change when a value does.
"""

from collections.abc import Iterator, Mapping
from itertools import product

from pydantic import ValidationError

from diptych.config.sections.crosscoders import Crosscoder, Sweep
from diptych.config.sections.strict import ConfigError, first_error

CEILING = "ceiling"
"""Last part of the alias of a crosscoder's ceiling."""
UNUSED_KEY = {"l1": "k", "jumprelu": "k", "batchtopk": "penalty", "topk": "penalty", "diff": "penalty"}
"""For each objective, the key of a sweep that it does not use."""


def expand(crosscoders: Mapping[str, Crosscoder]) -> dict[str, Crosscoder]:
    """Crosscoders by alias, with sweeps replaced by their variants and ceilings added.

    Raises:
        ConfigError: two have the same alias.
    """
    expanded: dict[str, Crosscoder] = {}
    for alias, section in crosscoders.items():
        for name, crosscoder in _variants(alias, section):
            if name in expanded or (name != alias and name in crosscoders):
                raise ConfigError(f"crosscoders.{name}: `sweep` or `ceiling` of {alias!r} has this alias; rename one")
            if name == alias or crosscoder not in expanded.values() or not _is_ceiling(name):
                expanded[name] = crosscoder
    return expanded


def ceiling_of(section: Crosscoder) -> Crosscoder:
    """The first model with itself, trained as a crosscoder is but from independent initial values."""
    settings = {"models": (section.models[0],) * len(section.models), "independent": True, "ceiling": False}
    return section.model_copy(update=settings)


def _is_ceiling(alias: str) -> bool:
    return alias.endswith(f".{CEILING}")


def _variants(alias: str, section: Crosscoder) -> Iterator[tuple[str, Crosscoder]]:
    swept_keys = [key for key in Sweep.model_fields if getattr(section.sweep, key)]
    for indices in product(*(range(len(getattr(section.sweep, key))) for key in swept_keys)):
        values = {key: getattr(section.sweep, key)[i] for key, i in zip(swept_keys, indices, strict=True)}
        unused_key = UNUSED_KEY[values.get("objective", section.objective)]
        if unused_key in swept_keys and indices[swept_keys.index(unused_key)] > 0:
            continue
        name = ".".join([alias, *map(str, indices)])
        variant = _updated(alias, section, {**values, "sweep": {}})
        yield name, variant
        if section.ceiling and variant.objective == "diff" and "objective" not in swept_keys:
            raise ConfigError(
                f"crosscoders.{alias}.ceiling: x_B - x_A of a model and itself is 0; leave it out for diff"
            )
        if section.ceiling and variant.objective != "diff":
            yield f"{name}.{CEILING}", ceiling_of(variant)


def _updated(alias: str, section: Crosscoder, values: Mapping[str, object]) -> Crosscoder:
    try:
        return Crosscoder.model_validate({**section.model_dump(), **values})
    except ValidationError as error:
        raise ConfigError(f"crosscoders.{alias}.{first_error(error, Crosscoder)}") from None
