"""The answer in words: what differs between the models of a pair by which methods, and what stays undecided."""

from collections.abc import Mapping, Sequence
from typing import Any

from diptych import methods
from diptych.findings.stage import Findings
from diptych.methods import Method
from diptych.page import method_sections
from diptych.page.blocks import counted, listed
from diptych.report import trust

CELLS_IN_WORDS = 3
"""Cells of a pair's grid of sites that the answer in words mentions: those with equal sites, if any."""


def answer(comparisons: Sequence[Mapping[str, Any]], findings: Findings) -> str:
    """What is said of compared pairs, line by line: findings by method, and which comparisons stay undecided."""
    compared = [pair for pair in comparisons if pair["role"] == "compared"]
    sentences = []
    for name in dict.fromkeys(pair["name"] for pair in compared):
        of_pair = [pair for pair in compared if pair["name"] == name]
        for whole in (pair for pair in of_pair if methods.scope_of(pair) == "pair"):
            sentences += [*_method_openings(whole, findings), *_comparison(whole, findings)]
        cells = [pair for pair in of_pair if methods.scope_of(pair) == "site"]
        described = ([cell for cell in cells if cell["site_a"] == cell["site_b"]] or cells)[:CELLS_IN_WORDS]
        for cell in described:
            sentences += [*_comparison(cell, findings), *_method_openings(cell, findings)]
        if len(cells) > len(described):
            rest = counted(len(cells) - len(described), "other cell")
            sentences.append(f"The tables below have the findings in the {rest} of the grid of {name}.")
    return "\n".join(filter(None, sentences))


def _comparison(pair: Mapping[str, Any], findings: Findings) -> list[str]:
    """Sentences on one comparison: findings, and what is not repeated, cannot be told, is absent or untested."""
    answers = trust.answers_of(findings, pair["name"], pair["site"])
    with_findings = {methods.named(a["method"]).title: a for a in answers if a["status"] == "found"}
    none = [methods.named(a["method"]) for a in answers if a["status"] == "none"]
    unclear = [methods.named(a["method"]) for a in answers if a["status"] == "unclear"]
    by_status = {
        status: [methods.named(a["method"]).title for a in answers if a["status"] == status]
        for status in ("not_repeated", "cannot_be_told")
    }
    untested = [methods.named(a["method"]).title for a in answers if a["status"] == "untested"]
    sentences = []
    same_site = pair["site_a"] == pair["site_b"]
    a = pair["a"] if same_site else f"{pair['a']} at {pair['site_a']}"
    at_site = f" at {pair['site_b']}" if pair["site_b"] else ""
    b = f"{pair['b']}{at_site}"
    if with_findings:
        counts = listed([f"{a['findings']} by the {name}{_besides(a)}" for name, a in with_findings.items()])
        claim = f"{pair['b']} differs from {a}{at_site}" if same_site else f"{b} differs from {a}"
        n_findings = sum(a["findings"] for a in with_findings.values())
        sentences.append(f"{claim}: {counted(n_findings, 'finding')} ({counts}).")
    if by_status["not_repeated"]:
        sentences.append(
            f"What the {listed(by_status['not_repeated'])} shows between {a} and {b} comes from one training and is "
            "not repeated."
        )
    if by_status["cannot_be_told"]:
        sentences.append(
            f"What the {listed(by_status['cannot_be_told'])} shows between {a} and {b} may be something else than a "
            "difference of the models."
        )
    if exact := [method.title for method in none if method.is_exact]:
        sentences.append(f"The {listed(exact)} of {a} and {pair['b']} show no difference that counts.")
    if sought := [method for method in none if not method.is_exact]:
        sentences.append(
            f"The {_titles(sought)} found no difference between {a} and {b}, though with the same settings a planted "
            f"one was found.{_smallest(answers, sought)}"
        )
    if unclear:
        sentences.append(
            f"With this much training the {_titles(unclear)} cannot tell whether {pair['b']} has something that "
            f"{pair['a']} has not.{_smallest(answers, unclear)}"
        )
    if untested:
        sentences.append(f"What the {listed(untested)} shows between {pair['a']} and {pair['b']} could not be tested.")
    return sentences


def _titles(named: Sequence[Method]) -> str:
    return listed([method.title for method in named])


def _smallest(answers: Sequence[Mapping[str, Any]], silent: Sequence[Method]) -> str:
    """Of methods that found nothing the smallest difference that each would have seen, in a sentence."""
    least = {a["method"]: a["least"] for a in answers}
    by_size: dict[str, list[Method]] = {}
    for method in silent:
        by_size.setdefault(least[method.name], []).append(method)
    seen = [f"{size} ({_titles(alike)})" for size, alike in by_size.items()]
    return f" The smallest seen on planted pairs, as a share of one model's variance: {listed(seen)}."


def of_method(method: Method, pair: Mapping[str, Any], findings: Findings) -> str:
    """The sentence of a method on a comparison on which it was run, besides its findings; "" if it has none."""
    ids = findings.ids(pair["name"], pair["site"], method.name)
    return method_sections.of(method).opening({**pair, "finding_ids": ids})


def _method_openings(pair: Mapping[str, Any], findings: Findings) -> list[str]:
    """Sentences of the methods that were run on a comparison, besides their findings."""
    run = (method for method in methods.METHODS if pair["files"].get(method.file))
    return [sentence for method in run if (sentence := of_method(method, pair, findings))]


def _besides(answer: Mapping[str, Any]) -> str:
    return f", besides {answer['besides']}" if answer["besides"] else ""
