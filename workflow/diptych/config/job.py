"""The job of a rule: its input files, its part of the spec, and the settings of its stage."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.config.sections.strict import Strict
from diptych.models import chat_templates

Inputs = dict[str, Path | list[Path]]
"""Input files of a job, by the rule's names for them."""
Reads = dict[str, Any]
"""The input files of a job by content, as aliases of the config."""


@dataclass(frozen=True)
class Job:
    """A job of a rule.

    Attributes:
        inputs: its input files, by the rule's names for them.
        reads: the same by alias and in order: part of the spec, which contains no paths.
        settings: keyword arguments of its stage.
        files: word lists and templates that it also reads, whose contents enter the spec.
        modules: dotted names of the modules that its stage imports dynamically.
        gpus: how many each model that it runs is spread over.
    """

    inputs: Inputs
    reads: Reads = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    modules: tuple[str, ...] = ()
    gpus: int = 1


def files_at(path: str | None) -> list[Path]:
    """Sorted entries of a user's directory, or the file itself; empty if there is neither."""
    location = Path(path) if path else None
    if location is None:
        return []
    return sorted(location.iterdir()) if location.is_dir() else [location] * location.is_file()


def dump(section: Strict, exclude: Iterable[str] = ()) -> dict[str, Any]:
    """Settings of a section but those of `exclude`, JSON-able."""
    return section.model_dump(mode="json", exclude=set(exclude))


def dump_only(section: Strict, include: Iterable[str]) -> dict[str, Any]:
    """The settings `include` of a section, JSON-able."""
    return section.model_dump(mode="json", include=set(include))


def model_files_at(path: str | None) -> list[Path]:
    """The same for a model or an adapter, whose further chat templates are in a directory of their own."""
    return [*files_at(path), *files_at(path and str(Path(path) / chat_templates.DIRECTORY))]
