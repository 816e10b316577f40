"""The leaderboard's page: what each method finds, its false discoveries and their calibration, angles, costs, cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.candidates.detection import Limit
from diptych.leaderboard import kinds, summary
from diptych.leaderboard.limits import POWER, limits
from diptych.leaderboard.summary import DoubleArray, Row
from diptych.oracle.entry import NOMINAL
from diptych.page import document, figures
from diptych.page.blocks import (
    Banner,
    Block,
    Cell,
    Figure,
    Note,
    Prose,
    Section,
    Table,
    counted,
    listed,
    number,
    percent,
)  # fmt: skip

QUANTILES = np.linspace(0.0, 1.0, 101)
"""Of the p values, in the calibration figure."""
LEAST_TESTS = 20
"""Tests on a null from which its quantiles are drawn."""
ABSENT = "NA"


@dataclass(frozen=True)
class Board:
    """The scores by method, case and quantity, with what describes them."""

    titles: Mapping[str, str]
    rows: Mapping[tuple[str, str, str], Row]
    cases: Mapping[str, Mapping[str, Any]]
    marked: Mapping[str, Sequence[str]]

    def of_kind(self, *kinds: str) -> list[str]:
        """Names of the cases of some kinds."""
        return [name for name, case in self.cases.items() if case["kind"] in kinds]

    def cell(self, method: str, case: str, quantity: str) -> Cell:
        """A score as a table cell with its interval on hover, or NA with the reason."""
        row = self.rows.get((method, case, quantity))
        if row is None or np.isnan(row.value):
            return Cell(ABSENT, order=-1.0, hint=row.note if row else "nothing of it is planted here")
        interval = "" if np.isnan(row.lo) else f"95 % interval {number(row.lo)} to {number(row.hi)}, "
        hint = f"{interval}{counted(row.seeds, 'pair')}" + (f"; {row.note}" if row.note else "")
        return Cell(number(row.value), order=row.value, hint=hint)

    def name(self, method: str) -> Cell:
        """A method's title, marked if its false discoveries are above nominal."""
        if method not in self.marked:
            return Cell(self.titles[method])
        return Cell(f"{self.titles[method]} ▲", tone="fail", hint="false discoveries above nominal")


def page(
    titles: Mapping[str, str],
    rows: Sequence[Row],
    costs: Sequence[Row],
    p: Mapping[tuple[str, str], DoubleArray],
    cases: Mapping[str, Mapping[str, Any]],
    unjudged: Mapping[str, str],
    budget: Mapping[str, Any],
) -> str:
    """HTML of the leaderboard; arguments as for `collect.Scores` and `collect.collect`."""
    by_key = {(row.method, row.case, row.quantity): row for row in [*rows, *costs]}
    board = Board(titles, by_key, cases, summary.above_nominal(rows))
    sections = [
        _finding(board),
        _spans(board),
        _amounts(board),
        *_limits(board),
        _false_discoveries(board, p),
        _cost(board, budget),
        _setup(board, unjudged),
    ]
    return document.render("Which diffing method finds what is there", _banner(board), _answer(board), sections)


def _banner(board: Board) -> Banner:
    nulls = board.of_kind(*kinds.NULLS)
    if not nulls:
        return Banner("warn", "False discoveries were not measured:", "no case of this leaderboard is a null.")
    if board.marked:
        text = listed([f"{board.titles[method]} (on {listed(list(on))})" for method, on in board.marked.items()])
        return Banner("fail", "False discoveries above nominal:", f"{text}.")
    seeds = [row.seeds for row in board.rows.values() if row.quantity == "any_significant" and row.seeds]
    pairs = f", of {min(seeds)} to {max(seeds)} pairs each" if seeds else ""
    text = f"on {counted(len(nulls), 'null')}{pairs}; few pairs show only what is far above."
    return Banner("pass", "No method's false discoveries are shown to be above nominal", text)


def _answer(board: Board) -> str:
    """Of each planted case the method of highest average precision."""
    sentences = []
    for case in board.of_kind("planted"):
        ranked = _by_score(board, case, "average_precision")
        if ranked:
            best = board.rows[ranked[0], case, "average_precision"]
            sentences.append(f"{case}: {board.titles[ranked[0]]} ({number(best.value)})")
    return "Highest average precision by case. " + "; ".join(sentences) + "." if sentences else ""


def _by_score(board: Board, case: str, quantity: str) -> list[str]:
    """Methods that have a score on a case, highest first."""
    scored = [method for method in board.titles if not np.isnan(_value(board, method, case, quantity))]
    return sorted(scored, key=lambda method: -_value(board, method, case, quantity))


def _value(board: Board, method: str, case: str, quantity: str) -> float:
    row = board.rows.get((method, case, quantity))
    return float("nan") if row is None else row.value


def _table(board: Board, columns: Sequence[tuple[str, str, str]], caption: str) -> Table:
    """A row for each method; columns are (heading, case, quantity)."""
    body = [[board.name(m), *(board.cell(m, case, quantity) for _, case, quantity in columns)] for m in board.titles]
    return Table(["method", *(heading for heading, _, _ in columns)], body, caption=caption, interactive=True)


def _finding(board: Board) -> Section:
    planted = board.of_kind("planted")
    blocks: list[Block] = [
        Prose(
            "A direction of a method's ranking is a hit if its cosine with a planted direction of the same model, "
            "not yet hit, is at least .7. Average precision is over the whole ranking; a method that does not say "
            "which model has a direction may hit those of both. Hover over a number for its interval over pairs."
        ),
        _table(
            board,
            [(case, case, "average_precision") for case in planted],
            "Average precision of the ranking against the features that one model alone has.",
        ),
        _table(
            board,
            [
                (f"{case}, {heading}", case, quantity)
                for case in planted
                for heading, quantity in (
                    ("at 5 % false", "recall_at_5"), ("reported", "reported_recall"), ("false", "reported_false"),
                )
            ],
            "Share of the planted features in the longest part of the ranking of which at most 5 % is false; share "
            "among what the method reports as a difference, and how much of that is false.",
        ),
    ]  # fmt: skip
    for case in planted:
        methods = _by_score(board, case, "average_precision")
        if methods:
            blocks.append(_dots(board, case, methods))
    return Section("finding", "What each method finds", blocks)


def _dots(board: Board, case: str, methods: Sequence[str]) -> Figure:
    rows = [board.rows[method, case, "average_precision"] for method in methods]
    half = [0.0 if np.isnan(row.hi) else (row.hi - row.lo) / 2 for row in rows]
    plot = figures.dot_plot(
        [board.titles[method] for method in methods],
        {"average precision": ([row.value for row in rows], half, "var(--b)")},
        x="average precision",
    )
    caption = f"Mean over pairs of the case {case}, with half of its 95 % interval to either side."
    slug = "".join(character if character.isalnum() else "-" for character in case)
    return Figure(f"precision-{slug}", f"Average precision: {case}", caption, plot, height=120 + 28 * len(rows))


def _spans(board: Board) -> Section:
    columns = [
        (f"{case}, {r}", case, f"{kind}_{r}")
        for case in board.of_kind("planted")
        for r, kind in (("1", "span"), ("K", "span"), ("2K", "span"), ("4K", "span"), ("K", "chance"))
    ]
    named = [
        (f"{head} by chance" if quantity.startswith("chance") else head, case, quantity)
        for head, case, quantity in columns
    ]
    caption = (
        "Share of the planted directions that lies in the span of the first 1, K, 2K and 4K directions of a side, K "
        "the number planted there, so that methods which find a space but not its axes are not punished."
    )
    return Section("spans", "Which spaces it finds", [_table(board, named, caption)])


def _amounts(board: Board) -> Section:
    cases = [
        case
        for case in board.of_kind("planted")
        if set(board.cases[case]["shape"]["labels"]) & {"rotated", "rescaled", "more_frequent"}
    ]
    if not cases:
        return Section("amounts", "How much features changed", [Prose("No feature that both models have is changed.")])
    columns = [
        (f"{case}, {heading}", case, quantity)
        for case in cases
        for heading, quantity in (
            ("angle", "angle"), ("covered", "angle_coverage"), ("scale", "scale"), ("covered", "scale_coverage"),
            ("frequency", "frequency"), ("covered", "frequency_coverage"),
        )
    ]  # fmt: skip
    caption = (
        "Rank correlation of a method's estimate with the planted angle, factor or rate over the features that it "
        "matches, and the share of the changed features that it matches."
    )
    return Section("amounts", "How much features changed", [_table(board, columns, caption)])


def _false_discoveries(board: Board, p: Mapping[tuple[str, str], DoubleArray]) -> Section:
    nulls = board.of_kind(*kinds.NULLS)
    columns = [
        (f"{case}, {heading}", case, quantity)
        for case in nulls
        for heading, quantity in (("q ≤ .05", "any_significant"), ("reported", "any_reported"), ("tests", "tests"))
    ]
    caption = (
        f"Share of pairs in which nothing differs on which a method has anything at q ≤ {number(NOMINAL)}, and on "
        "which it reports a difference (it also has to hold on held-out documents, at the least size of a finding); "
        "tests per pair."
    )
    blocks: list[Block] = [_table(board, columns, caption)]
    for method, on in board.marked.items():
        rates = [percent(board.rows[method, case, "any_significant"].value) for case in on]
        where = listed([f"{rate} of the pairs of {case}" for rate, case in zip(rates, on, strict=True)])
        blocks.append(Note("fail", f"{board.titles[method]} is above nominal: something at q ≤ .05 in {where}."))
    series = {}
    for method, title in board.titles.items():
        tested = np.concatenate([np.zeros(0), *(values for (name, _), values in p.items() if name == method)])
        if len(tested) >= LEAST_TESTS:
            series[title] = (QUANTILES, np.quantile(tested, QUANTILES))
    if series:
        caption = (
            "Quantiles of the p values of all candidates on pairs in which nothing differs (identical pairs left out), "
            "against those of a uniform distribution: below the diagonal p is too small. Candidates of one pair are "
            "not independent, and only what a method proposes is tested."
        )
        plot = figures.line_plot({"uniform": (QUANTILES, QUANTILES), **series}, x="expected p", y="p")
        blocks.append(Figure("calibration", "Calibration of p", caption, plot, height=420))
    return Section("false-discoveries", "False discoveries where nothing differs", blocks)


def _limits(board: Board) -> list[Section]:
    curve = limits(list(board.rows.values()), board.cases)
    if not curve:
        return []
    all_tokens = sorted({limit.tokens for _, limit in curve})
    by_key = {(method, limit.tokens): limit for method, limit in curve}
    methods = [method for method in board.titles if any(name == method for name, _ in curve)]
    body = [[board.name(method), *(_limit_cell(by_key.get((method, n))) for n in all_tokens)] for method in methods]
    caption = (
        f"Smallest share of a model's variance, along a direction that it alone has, from which on a method reports "
        f"{percent(POWER)} of the planted directions, by the tokens that it had; ≤ where the smallest that was planted "
        "is reported, > where not even the largest is. Point at one for how many were reported."
    )
    table = Table(["method", *(f"{tokens:,} tokens" for tokens in all_tokens)], body, caption=caption)
    series = {
        board.titles[method]: (all_tokens, [_share(by_key.get((method, n))) for n in all_tokens]) for method in methods
    }
    plot = figures.line_plot(series, x="tokens", y="share of variance", logarithmic=True, markers=True)
    figure = Figure("limits-curve", "Detection limits", "Limits of the table against tokens.", plot)
    return [Section("limits", "The smallest difference that it sees", [table, figure])]


def _share(limit: Limit | None) -> float:
    return float("nan") if limit is None or limit.share is None else limit.share


def _limit_cell(limit: Limit | None) -> Cell:
    if limit is None:
        return Cell(ABSENT, order=-1.0, hint="nothing could be tested")
    hint = f"{limit.found} of {counted(limit.planted, 'direction')}"
    if limit.share is None:
        return Cell(f"> {percent(limit.most)}", order=1.0, hint=hint)
    return Cell(("≤ " if limit.share == limit.least else "") + percent(limit.share), order=limit.share, hint=hint)


def _cost(board: Board, budget: Mapping[str, Any]) -> Section:
    planted = board.of_kind("planted")
    k = "as many active latents on a row as true features are active" if budget["k"] is None else f"L0 {budget['k']}"
    text = (
        f"Methods that train have one budget: {budget['n_latents']:,} latents, {budget['steps']:,} steps of "
        f"{budget['batch']:,} rows, {k}. L1 and JumpReLU crosscoders reach it by their penalty, over at most four runs "
        "of that length, all of which are in their seconds. Processor seconds and memory (of the process, "
        "imports included) are of the run that made this page."
    )
    columns = [
        (f"{case}, {heading}", case, quantity)
        for case in planted
        for heading, quantity in (("L0", "l0"), ("seconds", "processor_s"), ("MB", "memory_mb"))
    ]
    return Section("cost", "At what cost", [Prose(text), _table(board, columns, "Per pair.")])


def _setup(board: Board, unjudged: Mapping[str, str]) -> Section:
    body = [
        [name, case["kind"], kinds.MEANINGS[case["kind"]], _shape_in_words(case["shape"])]
        for name, case in board.cases.items()
        if case["kind"] != "limit"
    ]
    absent = [[title, reason] for title, reason in unjudged.items()]
    return Section(
        "setup",
        "Cases, and what is not judged here",
        [
            Table(["case", "kind", "meaning", "shape"], body, caption="Pairs of planted activations, one per seed."),
            Table(["method", "why not"], absent, caption="Methods that are not fitted on two matrices of rows."),
        ],
    )


def _shape_in_words(shape: Mapping[str, Any]) -> str:
    labels = ", ".join(f"{amount[0]} {name.replace('_', ' ')}" for name, amount in shape["labels"].items())
    basis = "one basis" if shape["same_map"] else "a basis each"
    extras = f", {counted(shape['clusters'], 'cluster')}" if shape["clusters"] else ""
    extras += f", rank {shape['rank']}" if shape["rank"] else ""
    return (
        f"widths {shape['d_A']} and {shape['d_B']}, {basis}, {shape['n_features']} features ({labels}){extras}, noise "
        f"{number(shape['noise'])}, {shape['n_documents']:,} documents of {shape['tokens_per_document']} tokens"
    )
