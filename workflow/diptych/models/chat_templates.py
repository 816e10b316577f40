"""The chat templates of a tokenizer on disk: one of several is chosen by its name.

A tokenizer has its template as text in tokenizer_config.json or in chat_template.jinja; or several, as a list of
{name, template} in tokenizer_config.json, or as further files additional_chat_templates/{name}.jinja. A model of a
study has one, so that every later stage renders conversations alike:

    chat_templates.place(Path("command-r"), Path("results/models/command_r"), "rag")
"""

import json
from pathlib import Path
from typing import Any

from diptych.runtime.errors import DiptychError, first_line

DEFAULT = "default"
"""Name of the template that is used where none is named, and of a tokenizer's only one."""
CONFIG, FILE, DIRECTORY = "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates"


def read(directory: Path) -> dict[str, str]:
    """The chat templates of the tokenizer in `directory` by name, as transformers reads them: files before the config.

    Raises:
        DiptychError: tokenizer_config.json is broken.
    """
    files = {DEFAULT: directory / FILE} if (directory / FILE).is_file() else {}
    files |= {file.stem: file for file in sorted((directory / DIRECTORY).glob("*.jinja"))}
    if files:
        return {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    stored = _read_config(directory).get("chat_template") or {}
    if isinstance(stored, str):
        return {DEFAULT: stored}
    try:
        entries = stored.items() if isinstance(stored, dict) else [(item["name"], item["template"]) for item in stored]
        return {str(name): str(template) for name, template in entries}
    except (TypeError, KeyError) as error:
        raise DiptychError(
            f"{directory / CONFIG}: `chat_template` is neither a template nor a list of named ones; mend it"
        ) from error


def choose(directory: Path, name: str) -> str | None:
    """The chat template called `name` of the tokenizer in `directory`; None for the default one of one without any.

    Raises:
        DiptychError: no template is called that; those that there are are listed.
    """
    templates = read(directory)
    if not templates and name == DEFAULT:
        return None
    if name not in templates:
        known = f"it has {', '.join(sorted(templates))}" if templates else "it has none"
        raise DiptychError(f"{directory}: no chat template is called {name!r} ({known}); set `chat_template`")
    return templates[name]


def place(source: Path, directory: Path, name: str) -> None:
    """Leave the copy in `directory` of the tokenizer in `source` with the one chat template called `name`.

    A tokenizer without templates, or with one that has no name, stays as it is.

    Raises:
        DiptychError: no template is called that.
    """
    template, config = choose(source, name), _read_config(source)
    is_plain = (source / FILE).is_file() or isinstance(config.get("chat_template"), str)
    if template is None or (is_plain and list(read(source)) == [DEFAULT]):
        return
    (directory / FILE).write_text(template, encoding="utf-8")
    if config.pop("chat_template", None) is not None:
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (directory / CONFIG).write_text(text, encoding="utf-8")


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    if not path.is_file():
        return {}
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DiptychError(f"{path}: not JSON ({first_line(error)}); fetch or save the tokenizer again") from error
    return values
