"""Candidates of a method: which stand, which repeat a stronger one, and whether the planted one is among them."""

import dataclasses
import math

import numpy as np
import pytest

from diptych import methods
from diptych.candidates import ranking
from diptych.candidates.recovery import recovery
from diptych.findings import conclusions
from example_candidates import THRESHOLD, make_candidate


@pytest.mark.parametrize(
    ("changed", "stands"),
    [
        ({}, True),
        ({"p": 0.2}, False),
        ({"p": math.nan}, False),
        ({"effect": 0.09, "held_out": 0.09}, False),
        ({"held_out": 0.24}, False),
        ({"held_out": 0.25}, True),
        ({"held_out": -0.5}, False),
        ({"held_out": math.nan}, False),
        ({"effect": -0.5, "held_out": -0.5}, False),
        ({"effect": -0.5, "held_out": -0.5, "side": "A"}, True),
        ({"effect": 0.95, "held_out": 0.95, "null": 0.9}, False),
    ],
)
def test_every_leg_is_needed(changed, stands):
    assert ranking.rank([make_candidate(**changed)], THRESHOLD).candidates[0].is_finding is stands


def test_q_is_of_the_family():
    offers = [make_candidate(p=p, id=str(i)) for i, p in enumerate([0.001, 0.02, 0.9, 0.8])]
    ranked = {c.candidate.id: c for c in ranking.rank(offers, THRESHOLD).candidates}
    assert ranked["0"].q == pytest.approx(0.004)
    assert ranked["1"].q == pytest.approx(0.04)
    assert [ranked[i].is_finding for i in "0123"] == [True, True, False, False]


def test_weakest_leg_orders():
    strong = make_candidate(effect=0.9, held_out=0.9, p=1e-6, id="strong")
    fragile = make_candidate(effect=0.9, held_out=0.46, p=1e-9, id="fragile")
    ranked = ranking.rank([fragile, strong], THRESHOLD)
    assert [c.candidate.id for c in ranked.candidates] == ["strong", "fragile"]


def test_luck_on_held_out_documents_does_not_put_a_small_effect_first():
    large = make_candidate(effect=0.9, held_out=0.9, id="large")
    lucky = make_candidate(effect=0.5, held_out=0.6, id="lucky")
    ranked = ranking.rank([lucky, large], ranking.Threshold(q=0.05, min_effect=0.01))
    assert [c.candidate.id for c in ranked.candidates] == ["large", "lucky"]
    assert ranked.candidates[0].margins[1] == ranked.candidates[1].margins[1] == 2.0


def test_the_same_direction_is_written_once_a_side():
    offers = [
        make_candidate(id="first", kind="direction", effect=0.6, held_out=0.6),
        make_candidate(id="again", kind="direction", direction=(-0.8, 0.6)),
        make_candidate(id="apart", kind="direction", direction=(0.6, 0.8)),
        make_candidate(id="other side", kind="direction", side="A", effect=-0.5, held_out=-0.5),
    ]
    ranked = ranking.rank(offers, THRESHOLD)
    assert {c.candidate.id for c in ranked.findings} == {"first", "apart", "other side"}
    assert next(c for c in ranked.candidates if c.candidate.id == "again").duplicate_of == "first"


def test_what_a_stronger_direction_shows_along_another_is_not_written_as_its_own():
    """Variance along v is seen at cos^2 along every direction: .25 of 100 along these."""
    v = np.array([1.0, 0.0, 0.0])

    def at_half(id_, surplus, **more):
        return make_candidate(id=id_, kind="direction", direction=(0.5, 0.8660254, 0.0), surplus=surplus, **more)

    strong = make_candidate(id="v", kind="direction", effect=0.5, held_out=0.5, direction=v, surplus=100.0)
    weak = strong._replace(id="v", p=0.5)
    for other, repeats in (
        (at_half("leak", 26.0), "v"),  # 25 of 26 are v's
        (at_half("own", 80.0), ""),  # 55 of 80 are its own
        (at_half("stronger", 120.0), ""),
        (at_half("of the other side", 26.0, side="A", effect=-0.9, held_out=-0.9), ""),
    ):
        ranked = ranking.rank([other, strong], THRESHOLD)
        assert next(c for c in ranked.candidates if c.candidate.id == other.id).duplicate_of == repeats
        assert next(c for c in ranked.candidates if c.candidate.id == "v").is_finding
    # What is no finding itself explains nothing away.
    assert {c.candidate.id for c in ranking.rank([at_half("leak", 26.0), weak], THRESHOLD).findings} == {"leak"}
    less = at_half("less", -1.0, side="A")
    assert not any(c.duplicate_of for c in ranking.rank([strong, less], THRESHOLD).candidates), "of another side"


def test_one_thing_is_written_once_a_side():
    offers = [
        make_candidate(id="7 at newline", subject="7", effect=0.4, held_out=0.4),
        make_candidate(id="7 at assistant", subject="7"),
        make_candidate(id="7 falls", subject="7", side="A", effect=-0.5, held_out=-0.5),
        make_candidate(id="8 at newline", subject="8", effect=0.3, held_out=0.3),
    ]
    ranked = ranking.rank(offers, THRESHOLD)
    assert {c.candidate.id for c in ranked.findings} == {"7 at assistant", "7 falls", "8 at newline"}


def test_latents_that_split_a_direction_are_written_once_a_training():
    split = {"kind": "latent", "direction": (0.8, 0.6)}
    offers = [
        make_candidate(id="1", kind="latent", direction=(1.0, 0.0), effect=0.9, held_out=0.9),
        make_candidate(id="2", **split),
        make_candidate(id="3", kind="latent", direction=(0.6, 0.8), effect=0.4, held_out=0.4),
        make_candidate(id="4", **split, side="A", effect=-0.5, held_out=-0.5),
        make_candidate(id="5", **split, trained="another crosscoder"),
        make_candidate(id="6", **split, p=0.9),
    ]
    ranked = {each.candidate.id: each for each in ranking.rank(offers, THRESHOLD).candidates}
    assert {id_ for id_, each in ranked.items() if each.is_finding} == {"1", "3", "4", "5"}
    assert ranked["2"].duplicate_of == "1"
    assert not ranked["6"].duplicate_of, "it is not reported anyway"


def test_what_only_rounding_tells_apart_does_not_choose_what_is_reported():
    """One feature by two metrics that are equal but for the order of their sums."""

    def reported(first, second):
        all_mean = make_candidate(id="all", subject="7", held_out=9.0, effect=0.5 + first, p=1e-9 + 1e-9 * second)
        active = make_candidate(id="active", subject="7", held_out=9.0, effect=0.5 + second, p=1e-9 + 1e-9 * first)
        return [each.candidate.id for each in ranking.rank([all_mean, active], THRESHOLD).findings]

    assert reported(1e-12, 3e-6) == reported(3e-6, 1e-12) == ["all"]
    assert reported(0.0, 0.2) == ["active"]


def test_a_methods_own_family_decides_its_q():
    """A million tests of which a hundred are put forward: q is that of the million."""
    ranked = ranking.rank([make_candidate(p=1e-6, q=0.3), make_candidate(p=1e-6, id="1", q=0.01)], THRESHOLD)
    assert {c.candidate.id: c.is_finding for c in ranked.candidates} == {"0": False, "1": True}


def test_recovery_needs_the_side_the_direction_and_the_legs():
    truth = np.array([0.0, 1.0])
    wrong_side = make_candidate(id="wrong side", side="A", effect=-0.9, held_out=-0.9, direction=(0.0, 1.0))
    wrong_way = make_candidate(id="wrong way", direction=(1.0, 0.1))
    near = make_candidate(id="near", effect=0.3, held_out=0.3, direction=(0.5, -0.9))
    found = recovery(ranking.rank([wrong_side, wrong_way, near], THRESHOLD), truth)
    assert found.written
    assert (found.rank, found.average_precision, found.name) == (3, pytest.approx(1 / 3), "feature near")
    weak = recovery(ranking.rank([near._replace(p=0.5)], THRESHOLD), truth)
    assert not weak.written
    assert weak.rank == 1
    nothing = recovery(ranking.rank([wrong_way], THRESHOLD), truth)
    assert (nothing.written, nothing.rank, nothing.average_precision) == (False, 0, 0.0)
    assert nothing.cosine == pytest.approx(0.0995, abs=1e-3)


def test_recovery_names_what_stands_and_counts_what_points_elsewhere():
    truth = np.array([0.0, 1.0])
    # The first points along the truth but is listed again, better, by the second; the third is another direction.
    repeated = make_candidate(id="again", effect=0.95, held_out=0.5, direction=(0.3, 0.9), kind="direction")
    best = make_candidate(id="itself", effect=0.9, held_out=0.9, direction=(0.0, 1.0), kind="direction")
    other = make_candidate(id="other", effect=0.8, held_out=0.8, direction=(1.0, 0.1), kind="direction")
    ranked = ranking.rank([repeated, best, other], THRESHOLD)
    places = {candidate.candidate.id: place for place, candidate in enumerate(ranked.candidates, 1)}
    for candidates in (ranked.candidates, ranked.candidates[::-1]):
        found = recovery(dataclasses.replace(ranked, candidates=candidates), truth)
        assert (found.name, found.cosine, found.elsewhere) == ("direction itself", pytest.approx(1.0), 1)
    assert recovery(ranked, truth).rank == places["itself"]
    said = conclusions.answer(
        "planted", methods.named("linear_map"), ranked, conclusions.PositiveControl("planted", found, [])
    )
    assert said.text.endswith("; 1 other finding with |cos| below 0.7")
