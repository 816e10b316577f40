"""Report blocks on unmatched features, and on matched features whose direction changed."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from diptych.page.blocks import Block, ContextList, Item, Items, Note, Prose, number, p_value, percent
from diptych.page.method_sections import Evidence, Finding
from diptych.pairing.candidates import PROPOSER
from diptych.storage import artifacts
from diptych.text.contexts import Codes, Text

Side = Literal["a", "b"]
SIDES: tuple[Side, Side] = ("a", "b")
Columns = Mapping[str, npt.NDArray[Any]]


ITEMS = 4
"""Features of each kind shown with contexts."""


class _Reader:
    """Contexts of features in both models of a pair."""

    def __init__(self, pair: Mapping[str, Any], texts: Mapping[Side, Text], contexts: int) -> None:
        self.names = {"a": pair["a"], "b": pair["b"]}
        self._texts, self._contexts = texts, contexts
        keys = {
            ("a", "a"): "features_a",
            ("a", "b"): "features_a_on_b",
            ("b", "b"): "features_b",
            ("b", "a"): "features_b_on_a",
        }
        self._codes = {
            (dictionary, model): Codes(pair["files"][key])
            for (dictionary, model), key in keys.items()
            if pair["files"].get(key)
        }

    def density(self, dictionary: Side, model: Side, latent: int) -> float:
        """Share of a model's tokens on which a dictionary's feature fires; NaN if it was not read on that model."""
        codes = self._codes.get((dictionary, model))
        return float(codes.density[latent]) if codes else float("nan")

    def side_by_side(self, dictionary: Side, latent: int) -> list[ContextList]:
        """The contexts of a feature's own model in both models; its own in each where they read different tokens."""
        other: Side = "a" if dictionary == "b" else "b"
        if self._texts["a"] is not self._texts["b"] or (dictionary, other) not in self._codes:
            return [part for model in SIDES for part in self.read(dictionary, model, latent, f"in {self.names[model]}")]
        scale = float(self._codes[dictionary, dictionary].maximum[latent])
        rows, values = self._codes[dictionary, dictionary].top(latent)
        chosen = self._texts[dictionary].contexts(rows, values, count=self._contexts)
        readings = {}
        for model, codes in (
            (dictionary, self._codes[dictionary, dictionary]),
            (other, self._codes[dictionary, other]),
        ):
            shade = codes.shade(latent, scale)
            contexts = [
                self._texts[model].context(at.row, float(codes.values(latent, np.array([at.row]))[0]), shade)
                for at in chosen
            ]
            readings[model] = [ContextList(f"in {self.names[model]}", contexts, "A" if model == "a" else "B")]
        return [*readings["a"], *readings["b"]]

    def read(self, dictionary: Side, model: Side, latent: int, title: str) -> list[ContextList]:
        """Top contexts of a feature in one model, shaded by activation over its maximum in its own model."""
        codes = self._codes.get((dictionary, model))
        if codes is None:
            return []
        scale = float(self._codes[dictionary, dictionary].maximum[latent])
        rows, values = codes.top(latent)
        contexts = self._texts[model].contexts(rows, values, codes.shade(latent, scale), count=self._contexts)
        return [ContextList(title, contexts, "A" if model == "a" else "B")]


def changed_features(
    pair: Mapping[str, Any], texts: Mapping[Side, Text], contexts: int, finding_ids: Collection[str]
) -> list[Block]:
    """Items of unmatched features of both models and of matched features of lowest cosine, with contexts."""
    reader = _Reader(pair, texts, contexts)
    blocks: list[Block] = []
    with artifacts.read(pair["files"]["pairing"], "pairing") as file:
        for side in ("b", "a"):
            blocks += _unmatched(file, reader, "b" if side == "b" else "a", finding_ids)
        blocks.append(_rotated(artifacts.read_table(file, "pairs"), artifacts.read_json(file, "statuses"), reader))
    return blocks


def _unmatched(file: h5py.File, reader: _Reader, side: Side, finding_ids: Collection[str]) -> list[Block]:
    model, other = reader.names[side], reader.names["a" if side == "b" else "b"]
    if f"gain_{side}" not in file:
        return [Note("info", f"Unmatched features of {model} were not tested on {other}: widths or sites differ.")]
    gain = artifacts.read_table(file, f"gain_{side}")
    if not len(gain["latent"]):
        return [Prose(f"No feature of {model} is unmatched.")]
    order = np.lexsort((-gain["held_out"], gain["p"]))[:ITEMS]
    items = [_unmatched_item(gain, int(k), reader, side, finding_ids) for k in order]
    return [
        Items(
            f"Unmatched features of {model}, those most clearly absent from {other} first. Gain compares how much the "
            f"feature fires in {model} and in {other}: 1 is only in {model}, 0 equally in both; tested on documents "
            "that "
            "were not used to choose it. Side by side: the same feature in both models, shaded on one scale.",
            items,
        )
    ]


def _unmatched_item(gain: Columns, k: int, reader: _Reader, side: Side, finding_ids: Collection[str]) -> Item:
    latent = int(gain["latent"][k])
    other: Side = "a" if side == "b" else "b"
    facts = [
        ("gain", number(float(gain["held_out"][k]))),
        ("95 %", f"{number(float(gain['lo'][k]))} to {number(float(gain['hi'][k]))}"),
        ("p", p_value(float(gain["p"][k]))),
        *_densities(reader, side, latent),
    ]
    readings = [
        *reader.read(side, side, latent, f"in {reader.names[side]}"),
        *reader.read(side, other, latent, f"the same feature in {reader.names[other]}"),
    ]
    tag = "finding" if f"{side.upper()} {latent}" in finding_ids else "unmatched"
    return Item(f"feature {latent} of {reader.names[side]}", facts, readings, "A" if side == "a" else "B", tag)


def _densities(reader: _Reader, side: Side, latent: int) -> list[tuple[str, str]]:
    """On how many tokens a feature fires in either model."""
    return [
        (f"fires in {reader.names[model]} on", f"{percent(reader.density(side, model, latent))} of tokens")
        for model in SIDES
    ]


def feature_evidence(
    pair: Mapping[str, Any], texts: Mapping[Side, Text], contexts: int, findings: Sequence[Finding]
) -> Evidence:
    """The contexts of each feature side by side in both models, and on how many tokens it fires in each."""
    if not findings:
        return {}
    (runs,) = PROPOSER.runs(pair["files"]).values()
    readers = {
        run: _Reader({**pair, "files": runs[run - 1]}, texts, contexts) for run in {each.run for each in findings}
    }
    items = {}
    for finding in findings:
        side: Side = "a" if finding.side == "A" else "b"
        latent, reader = int(finding.id), readers[finding.run]
        readings = reader.side_by_side(side, latent)
        items[finding] = Item("", _densities(reader, side, latent), readings, finding.side)
    return items


def _rotated(pairs: Columns, statuses: Sequence[str], reader: _Reader) -> Block:
    """Items of the matched pairs whose directions differ most after the map."""
    matched = np.flatnonzero((pairs["outcome"] == statuses.index("matched")) & np.isfinite(pairs["cosine"]))
    if not len(matched):
        return Prose("No matched pair to compare.")
    order = matched[np.argsort(pairs["cosine"][matched] ** 2, kind="stable")][:ITEMS]
    items = []
    for k in order:
        i, j = int(pairs["a"][k]), int(pairs["b"][k])
        facts = [
            ("direction changed by", number(1 - float(pairs["cosine"][k]) ** 2)),
            ("correlation", number(float(pairs["rho_held_out"][k]))),
            ("density ratio", number(float(pairs["density_ratio"][k]))),
            ("norm difference", number(float(pairs["norm_difference"][k]))),
        ]
        readings = [
            *reader.read("a", "a", i, f"feature {i} in {reader.names['a']}"),
            *reader.read("b", "b", j, f"feature {j} in {reader.names['b']}"),
        ]
        items.append(Item(f"{reader.names['a']} {i} ↔ {reader.names['b']} {j}", facts, readings, "both", "matched"))
    return Items(
        "Matched features whose direction changed most: 1 − cos² between B's decoder row and A's, mapped linearly into "
        "B's space.",
        items,
        n_open=0,
    )
