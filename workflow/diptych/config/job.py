"""One job of a rule: what it reads and the settings of its stage, before Snakemake runs it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.models import chat_templates

Inputs = dict[str, Path | list[Path]]
Reads = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One job of a rule.

    Attributes:
        inputs: the files that it reads, by the rule's names for them.
        reads: what these are, by alias and in order: a part of the spec, which holds no path.
        settings: keyword arguments of its stage.
        files: what it reads beside code and inputs: word lists and templates, whose contents are in the spec.
        modules: what its stage imports by name, beside what its script imports.
    """

    inputs: Inputs
    reads: Reads = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    modules: tuple[str, ...] = ()


def files_at(path: str | None) -> list[Path]:
    """What lies in a directory of the user's, or the file itself, so that a changed one is read again."""
    location = Path(path) if path else None
    if location is None:
        return []
    return sorted(location.iterdir()) if location.is_dir() else [location] * location.is_file()


def model_files_at(path: str | None) -> list[Path]:
    """The same for a model or an adapter, whose further chat templates are in a directory of their own."""
    return [*files_at(path), *files_at(path and str(Path(path) / chat_templates.DIRECTORY))]
