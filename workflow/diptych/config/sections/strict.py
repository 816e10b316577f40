"""Base type of config sections: unknown keys are errors, and an error is one line that names its key.

class Study(Strict):
    title: str = "Diptych"

try:
    Study.model_validate({"titel": "x"})
except ValidationError as error:
    first_error(error, Study)   # "titel: unknown key; did you mean 'title'?"
"""

import difflib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from diptych.runtime.errors import DiptychError


class ConfigError(DiptychError):
    """A key of the config is unknown, missing or has an invalid value."""


class Strict(BaseModel):
    """Config section in which unknown keys are errors and values are immutable.

    Texts are names (ids, versions, paths, labels): on one line, not empty, without blanks around them; those of the
    fields in `prose` may hold anything but control characters.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
    prose: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*")
    @classmethod
    def _check_texts(cls, value: Any, info: ValidationInfo) -> Any:
        if value == cls.model_fields[str(info.field_name)].default:
            return value
        for text in _texts(value):
            if problem := _prose_problem(text) if info.field_name in cls.prose else _name_problem(text):
                raise ValueError(problem)
        return value


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, and in lists and mappings, their keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)


def _name_problem(text: str) -> str:
    """Reason why a text is no valid name, or ""."""
    if not text.strip():
        return "must not be empty"
    if text != text.strip():
        return "must not begin or end with a blank"
    return "must not hold control characters" if any(unicodedata.category(char) == "Cc" for char in text) else ""


def _prose_problem(text: str) -> str:
    is_control = any(unicodedata.category(char) == "Cc" for char in text if char not in "\n\t")
    return "must not hold control characters" if is_control else ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """End of a message on an unknown name: `; did you mean 'x'?`, or all known names where none is similar."""
    names = sorted(known)
    if match := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        return f"; did you mean {match[0]!r}?"
    return f"; known: {', '.join(names)}" if names else "; none is defined"


def first_error(error: ValidationError, root: type[Strict]) -> str:
    """The first error of a validation as one line, `key: problem`."""
    details = error.errors(include_url=False)
    # A list in a key of type text-or-list also fails as a text: report its error as a list; so with list-or-section.
    other_branch = {("string_type", list), ("tuple_type", dict), ("model_type", list)}
    relevant = [detail for detail in details if (detail["type"], type(detail["input"])) not in other_branch]
    first = next((detail for detail in details if detail["type"] == "extra_forbidden"), (relevant or details)[0])
    path, known, expected = _locate(first["loc"], root)
    key, value = ".".join(path), first["input"]
    match first["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key{suggestion(path[-1], known)}"
        case "union_tag_not_found" | "union_tag_invalid":
            kind, kinds = value.get("kind"), _classes_by_kind(expected)
            if kind is None:
                return f"{key}: `kind` is missing; give one of {', '.join(kinds)}"
            return f"{key}.kind: no kind is called {str(kind)!r}{suggestion(str(kind), kinds)}"
        case "dict_type" | "model_type" | "model_attributes_type" if value is None:
            return f"{key}: is empty; fill it in, or take it out"
        case "dict_type" | "model_type" | "model_attributes_type":
            problem = "must hold keys, each as `key: value`"
        case "tuple_type":
            problem = "must be a list, as [a, b]"
        case _:
            message = first["msg"].removeprefix("Value error, ").replace("Tuple", "List")
            problem = f"{message[0].lower()}{message[1:]}"
    return f"{key}: {problem}" if isinstance(value, dict) else f"{key}: {problem} (got {value!r})"


def _locate(loc: tuple[int | str, ...], root: type[Strict]) -> tuple[list[str], list[str], Any]:
    """Keys of the config for a pydantic location, the valid siblings of the last one, and its annotation."""
    path: list[str] = []
    known: list[str] = []
    annotation: Any = root
    for part in loc:
        annotation = _unwrapped(annotation)
        classes = _classes_by_kind(annotation)
        if part in classes:  # the branch of a union, not a key of the config
            annotation = classes[str(part)]
        elif get_origin(annotation) in (Union, UnionType):  # also the branch of a union
            sections = {cls.__name__: cls for cls in get_args(annotation) if _is_section(cls)}
            annotation = sections.get(str(part))
        elif part != "[key]":
            known = list(annotation.model_fields) if _is_section(annotation) else []
            path.append(str(part))
            annotation = _value_annotation(annotation, str(part))
    return path, known, _unwrapped(annotation)


def _unwrapped(annotation: Any) -> Any:
    """An annotation without its metadata, and without None where that is the only alternative."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[0]
    alternatives = [part for part in get_args(annotation) if part is not type(None)]
    return alternatives[0] if type(None) in get_args(annotation) and len(alternatives) == 1 else annotation


def _classes_by_kind(annotation: Any) -> dict[str, type[Strict]]:
    """The classes of a union by their `kind`."""
    classes = [part for part in get_args(annotation) if _is_section(part) and "kind" in part.model_fields]
    return {get_args(part.model_fields["kind"].annotation)[0]: part for part in classes}


def _value_annotation(annotation: Any, key: str) -> Any:
    """The annotation of the value at `key`."""
    if _is_section(annotation):
        field = annotation.model_fields.get(key)
        return None if field is None else field.annotation
    return get_args(annotation)[1] if get_origin(annotation) is dict else None


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Strict)
