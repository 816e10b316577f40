"""Chat datasets for tests: sources, files of tables, and what a fetched source holds."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.text.corpora import stage

Turns = list[dict[str, str]]


def fetch(tmp_path: Path, source: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Texts or messages of a source, and its counts."""
    out = tmp_path / "corpus"
    stage.fetch(out, spec={}, sources={"x": source})
    records = [json.loads(line) for line in (out / "documents.jsonl").read_text(encoding="utf-8").splitlines()]
    counts = json.loads((out / "corpus.json").read_text())["sources"]["x"]
    return [record.get("messages") or record["text"] for record in records], counts


def hub(directory: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "hub", "id": str(directory), "revision": None, "split": "train", **more}


def local(*paths: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "local", "paths": [str(path) for path in paths], **more}


def chat(*said: str) -> Turns:
    """Messages by user and assistant in turn; one that begins with `system: ` by the system."""
    roles = iter(["user", "assistant"] * len(said))
    return [
        {"role": "system", "content": text.removeprefix("system: ")}
        if text.startswith("system: ")
        else {"role": next(roles), "content": text}
        for text in said
    ]


def write(path: Path, table: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)
