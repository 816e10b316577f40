"""Generated files: the config's reference and JSON Schema, columns of the findings, detection limits, environments.

python -m diptych.config.documentation.write            # write config/README.md, the schema and envs/*.yaml
python -m diptych.config.documentation.write --check    # fail if one is out of date
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from diptych.candidates import detection
from diptych.config.documentation.reruns import RERUNS
from diptych.config.sections.strict import Strict
from diptych.config.study import Study
from diptych.findings import schema as findings_schema

ROOT = Path(__file__).parents[4]
OUTPUTS = ROOT / "docs" / "outputs.md"
LEADERBOARD = ROOT / "docs" / "leaderboard.md"
COLUMNS = re.compile(r"(<!-- columns of (\S+): .* -->\n)(?:.*\n)*?(<!-- end of columns -->\n)")
"""The parts of docs/outputs.md that are written here."""
TABLES = {"findings.tsv": findings_schema.COLUMNS, "known_edits.tsv": findings_schema.EDIT_COLUMNS}
LIMITS = re.compile(r"(<!-- limits: .* -->\n)(?:.*\n)*?(<!-- end of limits -->\n)")
"""The part of docs/leaderboard.md that is written here."""
TYPE_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}
HEADER = """# The config, key by key

Written from `workflow/diptych/config/sections/` by `make docs`; do not edit by hand.

`config/config.yaml` is the default study. Another study is another file:
`snakemake --configfile config/studies/test.yaml`. Override nested keys with a second `--configfile` (later files win,
key by key); `--config` turns nested values into strings.

The column *re-runs* names the first rule that a change of the key runs again; everything that reads its output
follows. A `-` means that the key changes how jobs run or which are requested, not a result: only missing files are
made. A new site group runs its dumps and their readers; a site added to an existing group runs that group again.
"""


def markdown() -> str:
    """The text of config/README.md."""
    parts = [HEADER]
    for title, cls in _sections():
        heading = title.replace("*", r"\*")
        parts.append(
            f"## {heading}\n\n{_paragraph(cls)}\n\n| key | type | default | re-runs | meaning |\n|---|---|---|---|---|"
        )
        parts.extend(_row(cls, name, field) for name, field in cls.model_fields.items())
        parts.append("")
    return "\n".join(parts)


def schema() -> str:
    """The text of the JSON Schema."""
    return json.dumps(Study.model_json_schema(), indent=1, sort_keys=True) + "\n"


def environment(kind: str) -> str:
    """The text of envs/{kind}.yaml: the lock file's pins, for --software-deployment-method conda."""
    pins = [line for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines() if "==" in line]
    lines = [
        f"# {kind.upper()} jobs, --software-deployment-method conda. From requirements.lock by `make docs`.",
        "channels: [conda-forge, nodefaults]",
        "dependencies:",
        "  - python =3.11",
        "  - pip",
        "  - pip:",
        *(f"      - {pin}" for pin in pins),
    ]
    return "\n".join(lines) + "\n"


def outputs() -> str:
    """The text of docs/outputs.md with the columns of findings.tsv and known_edits.tsv."""
    text = OUTPUTS.read_text(encoding="utf-8")
    return COLUMNS.sub(lambda found: f"{found[1]}\n{findings_schema.markdown(TABLES[found[2]])}\n{found[3]}", text)


def leaderboard() -> str:
    """The text of docs/leaderboard.md with the detection limits that ship."""
    text = LEADERBOARD.read_text(encoding="utf-8")
    return LIMITS.sub(lambda found: f"{found[1]}\n{detection.markdown(detection.read())}\n{found[2]}", text)


def _sections() -> list[tuple[str, type[Strict]]]:
    """Title and class of every section of the config, outermost first."""
    classes: list[tuple[str, type[Strict]]] = [("the study", Study)]
    for key, cls in classes:
        for name, field in cls.model_fields.items():
            prefix = name if cls is Study else f"{key}.{name}"
            for title, section in _section_classes(field.annotation, prefix):
                if section not in [listed for _, listed in classes]:
                    classes.append((title, section))
    return classes


def _section_classes(annotation: Any, key: str) -> list[tuple[str, type[Strict]]]:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        kind = annotation.model_fields.get("kind")
        suffix = f" (kind: {get_args(kind.annotation)[0]})" if kind else ""
        return [(key + suffix, annotation)]
    if get_origin(annotation) is dict:
        return _section_classes(get_args(annotation)[1], f"{key}.*")
    return [item for part in get_args(annotation) for item in _section_classes(part, key)]


def _row(cls: type[Strict], name: str, field: FieldInfo) -> str:
    cells = (f"`{name}`", _type(field.annotation) + _bounds(field.metadata), _default(field))
    return "| " + " | ".join([*cells, _reruns(cls, name), (field.description or "").replace("\n", " ")]) + " |"


def _reruns(cls: type[Strict], name: str) -> str:
    rule = RERUNS.get((cls.__name__, name), RERUNS.get((cls.__name__, "*")))
    return f"`{rule}`" if rule else "-"


def _paragraph(cls: type[Strict]) -> str:
    return " ".join((cls.__doc__ or "").split())


def _type(annotation: Any) -> str:
    """Name of a type for the reference."""
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return "section"
    if annotation is type(None):
        return "null"
    if origin is dict:
        return f"{_type(arguments[1])} by name"
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is not None and origin.__name__ == "Literal":
        return " or ".join(f"`{value}`" for value in arguments)
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0]) + _bounds(annotation.__metadata__)
    if arguments:
        return " or ".join(dict.fromkeys(_type(part) for part in arguments))
    return TYPE_NAMES[annotation]


def _bounds(metadata: Any) -> str:
    """Bounds of a number, as in ` >= 1`."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    constraints = [constraint for entry in metadata for constraint in getattr(entry, "metadata", [entry])]
    return "".join(
        f" {sign} {getattr(constraint, name):g}"
        for constraint in constraints
        for name, sign in signs.items()
        if hasattr(constraint, name)
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if field.default_factory is not None or isinstance(value, Strict):
        return ""
    return f"`{json.dumps(value)}`"


def main(arguments: list[str]) -> int:
    """Write or check all files; 1 if `--check` finds one out of date."""
    targets = {
        ROOT / "config" / "README.md": markdown(),
        ROOT / "workflow" / "schemas" / "study.schema.json": schema(),
        OUTPUTS: outputs(),
        LEADERBOARD: leaderboard(),
        **{ROOT / "envs" / f"{kind}.yaml": environment(kind) for kind in ("cpu", "gpu")},
    }
    stale = [path for path, text in targets.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.relative_to(ROOT)}: out of date; run `make docs`", file=sys.stderr)
        return int(bool(stale))
    for path, text in targets.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
