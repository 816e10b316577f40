"""Selection of the directions to steer along: the best candidates of a pair, matched features, and controls.

    plan = select(files, top=2, matched=1, random=4, latents=4, seed=0)
    plan.items        # each with its name, the words on which it is strongest, its density
    plan.runs["A"]    # directions to steer model A along: own, transferred, matched, random, other latents

Items come from the pair's artifacts, in the order of the findings. `own` is an item's direction in its own model;
`transfer` is that direction mapped into the other model by the best linear map; `match` is the feature of B that a
feature of A is matched with. Random directions are drawn from the covariance of the map's residual, so they point where
the models differ anyway; random latents are live features of similar density.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych import methods
from diptych.affine_maps import affine
from diptych.candidates import proposer, ranking, repetition
from diptych.candidates.candidate import SIDES, SideName
from diptych.dictionaries import sae
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import contexts
from diptych.text.word_lists import is_stop_token

DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Decoders = Mapping[SideName, sae.Decoder]
"""Decoder rows of each model's dictionary."""
Role = Literal["unsteered", "own", "transfer", "match", "random", "latent"]

WORDS = 10
"""Number of words by which an item is recognised in a text."""
WORD_ROWS = 20
"""Strongest token rows that the words are taken from."""
OTHER: Mapping[SideName, SideName] = {"A": "B", "B": "A"}
NO_FEATURES: Mapping[SideName, Sequence[int]] = {"A": (), "B": ()}
MAP_OF: Mapping[SideName, affine.DirectionName] = {"A": "forward", "B": "backward"}
"""The linear map from a side into the other model."""


@dataclass(frozen=True)
class Item:
    """A candidate, a matched pair of features, or a feature named in the config, that is steered along.

    Attributes:
        method: that proposed it; "matched" for a matched pair of features, "named" for a feature named in the config.
        id: as in the findings; for a matched pair A's and B's latent.
        side: the model it is of.
        direction: float64 [d_side], unit length, with the sign of its stronger end.
        words: lower-cased tokens on which it is strongest, stop tokens left out.
        density: share of tokens on which it fires; NaN for a direction.
        match: float64, unit length, the other model's feature that the feature is matched with; None for candidates.
    """

    method: str
    id: str
    side: SideName
    direction: DoubleArray
    words: tuple[str, ...]
    density: float = float("nan")
    match: DoubleArray | None = None


class Run(NamedTuple):
    """A direction to steer one model along, with its role, the item it belongs to (-1 for none) and its name."""

    role: Role
    item: int
    name: str
    direction: FloatArray


@dataclass
class Plan:
    """Items, and runs by model."""

    items: list[Item]
    runs: dict[SideName, list[Run]] = field(default_factory=lambda: {"A": [], "B": []})
    carried: list[float] = field(default_factory=list)
    """For each item ||d R|| / ||d|| under the map into the other model."""


def select(
    files: Mapping[str, Any],
    *,
    top: int,
    matched: int,
    random: int,
    latents: int,
    seed: int,
    features: Mapping[SideName, Sequence[int]] = NO_FEATURES,
) -> Plan:
    """Select the items of a pair, and the directions and controls to steer along.

    Args:
        files: as for `findings.collect`: linear_map, tokens_a, tokens_b and, if there are any, means, crosscoders and,
            for pairs with features, pairing, dictionary_a, dictionary_b, features_a, features_b, repeats.
        top: number of candidates of each method.
        matched: number of matched pairs of features.
        random: number of random directions for each model.
        latents: number of random live latents for each model with a dictionary.
        seed: of the random latents.
        features: further features of each model's dictionary.

    Raises:
        DiptychError: a dictionary has no such feature.
    """
    with artifacts.read(files["linear_map"], "linear_map") as file:
        slopes = {side: affine.load(file, MAP_OF[side]).slope for side in SIDES}
        random_directions: dict[SideName, DoubleArray] = {
            "A": file["backward/random"][:],
            "B": file["forward/random"][:],
        }
    items = _candidate_items(files, top)
    decoders: Decoders = _decoders(files) if files.get("pairing") else {}
    if decoders:
        items += _matched_features(files, decoders, matched)
        items += _named_features(files, decoders, features)
    plan = Plan(items)
    for number, item in enumerate(items):
        other = OTHER[item.side]
        mapped = item.direction @ slopes[item.side]
        plan.carried.append(float(np.linalg.norm(mapped)))
        _add(plan, item.side, "own", number, item.id, item.direction)
        _add(plan, other, "transfer", number, item.id, mapped)
        if item.match is not None:
            _add(plan, other, "match", number, item.id, item.match)
    for side in SIDES:
        for number, direction in enumerate(random_directions[side][:random]):
            _add(plan, side, "random", -1, f"random {number + 1}", direction)
        if decoders:
            for latent, direction in _random_latents(files, decoders[side], side, items, latents, seed):
                _add(plan, side, "latent", -1, f"feature {latent}", direction)
    return plan


def _add(plan: Plan, side: SideName, role: Role, item: int, name: str, direction: DoubleArray) -> None:
    """Add a run, unless the direction is zero (in the kernel of the map, or from a residual of zero)."""
    length = float(np.linalg.norm(direction))
    if length > 0:
        plan.runs[side].append(Run(role, item, name, (direction / length).astype(np.float32)))


def _candidate_items(files: Mapping[str, Any], top: int) -> list[Item]:
    """The best candidates of every method that was run and whose candidates are steered, findings before others."""
    items = []
    for method in methods.steered():
        if not files.get(method.file):
            continue
        proposes = proposer.of(method)
        threshold = ranking.Threshold(ranking.Q, method.min_effect)
        best = ranking.best(repetition.ranking_of(proposes, files, threshold), top)
        for candidate in proposes.steered(files, best):
            side = candidate.side.lower()
            words = _bare(candidate.words) or _words(contexts.Text(files[f"tokens_{side}"]), candidate.rows)
            density = float("nan")
            if candidate.kind == "feature" and candidate.id.isdecimal():
                density = float(contexts.Codes(files[f"features_{side}"]).density[int(candidate.id)])
            direction = _unit(candidate.direction)
            items.append(Item(method.name, candidate.id, candidate.side, direction, words, density))
    return items


def _matched_features(files: Mapping[str, Any], decoders: Decoders, count: int) -> list[Item]:
    """The matched pairs of features with the highest held-out correlation."""
    codes, text = contexts.Codes(files["features_a"]), contexts.Text(files["tokens_a"])
    items = []
    for i, j in _matches(files)[:count]:
        directions = _direction(decoders["A"], i), _direction(decoders["B"], j)
        words, density = _words(text, codes.top(i)[0]), float(codes.density[i])
        items.append(Item("matched", f"{i}--{j}", "A", directions[0], words, density, match=directions[1]))
    return items


def _named_features(
    files: Mapping[str, Any], decoders: Decoders, features: Mapping[SideName, Sequence[int]]
) -> list[Item]:
    """Features named in the config, each with the one of the other model that it is matched with, if any."""
    # Of several matches of one feature the best counts: the later entry of a dict.
    matches = _matches(files)[::-1]
    partner_of: dict[SideName, dict[int, int]] = {"A": dict(matches), "B": {j: i for i, j in matches}}
    items = []
    for side, other in OTHER.items():
        codes, text = contexts.Codes(files[f"features_{side.lower()}"]), contexts.Text(files[f"tokens_{side.lower()}"])
        for latent in features[side]:
            if latent >= (count := decoders[side].n_features):
                raise DiptychError(
                    f"steering.features: {latent} of a dictionary of {count} features; they count from 0"
                )
            direction = _direction(decoders[side], latent)
            partner = partner_of[side].get(latent)
            match = None if partner is None else _direction(decoders[other], partner)
            words, density = _words(text, codes.top(latent)[0]), float(codes.density[latent])
            items.append(Item("named", str(latent), side, direction, words, density, match))
    return items


def _matches(files: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The matched pairs of features (A's, B's), those of the highest held-out correlation first."""
    with artifacts.read(files["pairing"], "pairing") as file:
        pairs = artifacts.read_table(file, "pairs")
        matched = artifacts.read_json(file, "statuses").index("matched")
    rows = np.flatnonzero(pairs["outcome"] == matched)
    rows = rows[np.argsort(-np.nan_to_num(pairs["rho_held_out"][rows]), kind="stable")]
    return list(zip(pairs["a"][rows].tolist(), pairs["b"][rows].tolist(), strict=True))


def _random_latents(
    files: Mapping[str, Any], decoder: sae.Decoder, side: SideName, items: Sequence[Item], count: int, seed: int
) -> list[tuple[int, DoubleArray]]:
    """Random live latents of a model's dictionary with a density similar to that of the items.

    They are drawn from the 4 `count` latents nearest in log density to the median of the side's features among the
    items, or of all live latents if there are none.
    """
    density = contexts.Codes(files[f"features_{side.lower()}"]).density
    excluded = {int(part) for item in items if math.isfinite(item.density) for part in item.id.split("--")}
    live = np.array([latent for latent in np.flatnonzero(density > 0) if latent not in excluded], dtype=np.int64)
    densities = [item.density for item in items if item.side == side and np.isfinite(item.density)]
    target = float(np.median(densities)) if densities else float(np.median(density[live])) if len(live) else 0.0
    near = live[np.argsort(np.abs(np.log(density[live] / target)), kind="stable")][: 4 * count]
    sampled = np.sort(np.random.default_rng(seed).permutation(near)[:count])
    return list(zip(sampled.tolist(), decoder.rows(sampled).astype(np.float64), strict=True))


def _decoders(files: Mapping[str, Any]) -> Decoders:
    return {side: sae.Decoder(Path(files[f"dictionary_{side.lower()}"]).parent) for side in SIDES}


def _direction(decoder: sae.Decoder, latent: int) -> DoubleArray:
    """A feature's decoder row at length 1."""
    return _unit(decoder.rows([latent])[0].astype(np.float64))


def _words(text: contexts.Text, rows: IntArray) -> tuple[str, ...]:
    """The first distinct words of token rows."""
    return _bare(text.words(rows[:WORD_ROWS]))


def _bare(words: Sequence[str]) -> tuple[str, ...]:
    """The first distinct words, stripped and lower-cased, without stop tokens."""
    bare = [word.strip().lower() for word in words if not is_stop_token(word)]
    return tuple(dict.fromkeys(bare))[:WORDS]


def _unit(vector: DoubleArray) -> DoubleArray:
    unit: DoubleArray = vector / max(float(np.linalg.norm(vector)), 1e-300)
    return unit
