"""Strict types for configs: unknown keys are errors, and an error is one line that names its key.

class Study(Strict):
    title: str = "Diptych"

try:
    Study.model_validate({"titel": "x"})
except ValidationError as error:
    first_line(error, Study)    # "titel: unknown key; did you mean 'title'?"
"""

import difflib
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from diptych.runtime.errors import DiptychError


class ConfigError(DiptychError):
    """A key of the config is unknown, missing or has a value that it cannot have."""


class Strict(BaseModel):
    """Unknown keys are errors; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, or the known words where none is near."""
    words = sorted(known)
    if match := difflib.get_close_matches(word, words, n=1, cutoff=0.6):
        return f"; did you mean {match[0]!r}?"
    return f"; known: {', '.join(words)}" if words else "; none is defined"


def first_line(error: ValidationError, root: type[Strict]) -> str:
    """The first error of a validation as `key: what is wrong`."""
    details = error.errors(include_url=False)
    # Of a key that takes a text or a list, a list is judged as a list.
    fitting = [
        detail for detail in details if not (detail["type"] == "string_type" and isinstance(detail["input"], list))
    ]
    first = next((detail for detail in details if detail["type"] == "extra_forbidden"), (fitting or details)[0])
    path, known, expected = _locate(first["loc"], root)
    where, value = ".".join(path), first["input"]
    match first["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key{nearest(path[-1], known)}"
        case "union_tag_not_found" | "union_tag_invalid":
            kind, kinds = value.get("kind"), _tagged(expected)
            if kind is None:
                return f"{where}: `kind` is missing; give one of {', '.join(kinds)}"
            return f"{where}.kind: no kind is called {str(kind)!r}{nearest(str(kind), kinds)}"
        case "dict_type" | "model_type" | "model_attributes_type" if value is None:
            return f"{where}: is empty; fill it in, or take it out"
        case "dict_type" | "model_type" | "model_attributes_type":
            wrong = "must hold keys, each as `key: value`"
        case "tuple_type":
            wrong = "must be a list, as [a, b]"
        case _:
            message = first["msg"].removeprefix("Value error, ").replace("Tuple", "List")
            wrong = f"{message[0].lower()}{message[1:]}"
    return f"{where}: {wrong}" if isinstance(value, dict) else f"{where}: {wrong} (got {value!r})"


def _locate(loc: tuple[int | str, ...], root: type[Strict]) -> tuple[list[str], list[str], Any]:
    """A pydantic location as keys of the config, the keys known where the last of them stands, and what it may hold."""
    path: list[str] = []
    known: list[str] = []
    here: Any = root
    for part in loc:
        here = _unwrapped(here)
        tagged = _tagged(here)
        if part in tagged:  # names the branch of a union and is no key of the config
            here = tagged[str(part)]
        elif get_origin(here) in (Union, UnionType):  # names the branch of a union, too
            here = None
        elif part != "[key]":
            known = list(here.model_fields) if _is_strict(here) else []
            path.append(str(part))
            here = _inside(here, str(part))
    return path, known, _unwrapped(here)


def _unwrapped(annotation: Any) -> Any:
    """An annotation without its metadata, and without None where that is the only other choice."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[0]
    choices = [part for part in get_args(annotation) if part is not type(None)]
    return choices[0] if type(None) in get_args(annotation) and len(choices) == 1 else annotation


def _tagged(annotation: Any) -> dict[str, type[Strict]]:
    """The classes of a union by their `kind`."""
    classes = [part for part in get_args(annotation) if _is_strict(part) and "kind" in part.model_fields]
    return {get_args(part.model_fields["kind"].annotation)[0]: part for part in classes}


def _inside(annotation: Any, key: str) -> Any:
    """The annotation of what the config holds at `key`."""
    if _is_strict(annotation):
        field = annotation.model_fields.get(key)
        return None if field is None else field.annotation
    return get_args(annotation)[1] if get_origin(annotation) is dict else None


def _is_strict(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Strict)
