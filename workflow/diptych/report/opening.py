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
    by_status: dict[str, list[dict[str, Any]]] = {}
    for answer in answers:
        by_status.setdefault(answer["status"], []).append(answer)
    sentences = []
    same_site = pair["site_a"] == pair["site_b"]
    a = pair["a"] if same_site else f"{pair['a']} at {pair['site_a']}"
    at_site = f" at {pair['site_b']}" if pair["site_b"] else ""
    b = f"{pair['b']}{at_site}"
    if found := by_status.get("found"):
        counts = listed([f"{each['findings']} by the {trust.titles([each])}{_besides(each)}" for each in found])
        claim = f"{pair['b']} differs from {a}{at_site}" if same_site else f"{b} differs from {a}"
        n_findings = sum(each["findings"] for each in found)
        sentences.append(f"{claim}: {counted(n_findings, 'finding')} ({counts}).")
    if once := by_status.get("not_repeated"):
        sentences.append(
            f"What the {trust.titles(once)} shows between {a} and {b} comes from one training and is not repeated."
        )
    if untold := by_status.get("cannot_be_told"):
        sentences.append(
            f"What the {trust.titles(untold)} shows between {a} and {b} may be something else than a difference of the "
            "models."
        )
    return [*sentences, *_silent(by_status, a, b, pair)]


def _silent(by_status: Mapping[str, Sequence[Mapping[str, Any]]], a: str, b: str, pair: Mapping[str, Any]) -> list[str]:
    """Sentences on the methods that found nothing between a and b, cannot tell, or were not tested."""
    sentences, none = [], by_status.get("none", [])
    if exact := [each for each in none if methods.named(each["method"]).is_exact]:
        sentences.append(f"The {trust.titles(exact)} of {a} and {pair['b']} show no difference that counts.")
    if sought := [each for each in none if each not in exact]:
        sentences.append(
            f"The {trust.titles(sought)} found no difference between {a} and {b}, though with the same settings a "
            f"planted one was found. {trust.smallest(sought)}"
        )
    if unclear := by_status.get("unclear"):
        sentences.append(
            f"With this much training the {trust.titles(unclear)} cannot tell whether {pair['b']} has something that "
            f"{pair['a']} has not. {trust.smallest(unclear)}"
        )
    if untested := by_status.get("untested"):
        sentences.append(
            f"What the {trust.titles(untested)} shows between {pair['a']} and {pair['b']} could not be tested."
        )
    return sentences


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
