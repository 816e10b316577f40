"""Sweeps and ceilings: one entry of the config's `crosscoders` that stands for several crosscoders.

    expand({"tuned": Crosscoder(models=("base", "tuned"), corpus="text", sweep=Sweep(k=(16, 32)), ceiling=True)})
    # {"tuned.0": k = 16, "tuned.0.ceiling": base with itself, "tuned.1": k = 32, "tuned.1.ceiling": ...}

An alias is made of places in the lists, never of values, so that a path stays what it is when a value changes.
"""

from collections.abc import Iterator, Mapping
from itertools import product

from pydantic import ValidationError

from diptych.config.sections.crosscoders import Crosscoder, Sweep
from diptych.config.sections.strict import ConfigError, first_line

CEILING = "ceiling"
"""Last part of the alias of a crosscoder's ceiling."""
UNUSED = {"l1": "k", "jumprelu": "k", "batchtopk": "penalty", "topk": "penalty", "diff": "penalty"}
"""The key of a sweep that an objective has no use for."""


def expand(crosscoders: Mapping[str, Crosscoder]) -> dict[str, Crosscoder]:
    """Every crosscoder that is trained, by alias; none of them has a sweep.

    Raises:
        ConfigError: two of them have the same alias.
    """
    expanded: dict[str, Crosscoder] = {}
    for alias, section in crosscoders.items():
        for name, crosscoder in _members(alias, section):
            if name in expanded or (name != alias and name in crosscoders):
                raise ConfigError(f"crosscoders.{name}: `sweep` or `ceiling` of {alias!r} makes this alias; rename one")
            expanded[name] = crosscoder
    return expanded


def _members(alias: str, section: Crosscoder) -> Iterator[tuple[str, Crosscoder]]:
    swept = [key for key in Sweep.model_fields if getattr(section.sweep, key)]
    for indices in product(*(range(len(getattr(section.sweep, key))) for key in swept)):
        values = {key: getattr(section.sweep, key)[i] for key, i in zip(swept, indices, strict=True)}
        unused = UNUSED[values.get("objective", section.objective)]
        if unused in swept and indices[swept.index(unused)] > 0:
            continue
        name = ".".join([alias, *map(str, indices)])
        member = _with(alias, section, {**values, "sweep": {}})
        yield name, member
        if section.ceiling and member.objective == "diff" and "objective" not in swept:
            raise ConfigError(
                f"crosscoders.{alias}.ceiling: x_B - x_A of a model and itself is 0; leave it out for diff"
            )
        if section.ceiling and member.objective != "diff":
            own = {"models": (section.models[0],) * len(section.models), "independent": True, "ceiling": False}
            yield f"{name}.{CEILING}", _with(alias, member, own)


def _with(alias: str, section: Crosscoder, values: Mapping[str, object]) -> Crosscoder:
    try:
        return Crosscoder.model_validate({**section.model_dump(), **values})
    except ValidationError as error:
        raise ConfigError(f"crosscoders.{alias}.{first_line(error, Crosscoder)}") from None
