"""Which findings the card of a pair shows, and what it says of those that only a later training has."""

from dataclasses import replace

import numpy as np
import pytest

import small_study
from diptych import methods
from diptych.candidates import proposer
from diptych.candidates.candidate import id_in_run, run_of
from diptych.findings import stage as findings_stage
from diptych.page import method_sections
from diptych.page.cards import Card, CardGroup, Cards
from diptych.page.method_sections import Finding, PageData
from diptych.report import finding_cards
from diptych.report.addresses import with_id

TRAINED = ("pairing", "crosscoder", "template")


def card(name, status="finding"):
    return Card(name, "down_proj moved", "weights", "", "B", status, [], [], {"effect": 1.0})


def test_where_no_finding_has_text_the_first_of_each_method_is_shown():
    """As the change of a matrix, whose words are its singular vectors' and no text of either model."""
    first, second, once = card("weights-0"), card("weights-1"), card("map-0", "not repeated")
    groups = [CardGroup("weights", "", [first, second], 5), CardGroup("linear map", "", [once], 5)]
    assert finding_cards.best(Cards(groups, {}), 3) == [first]


def test_an_id_says_its_run():
    assert run_of("7") == ("7", 1)
    assert run_of(id_in_run("main 7", 2)) == ("main 7", 2)
    assert run_of(id_in_run("12 at \n, density", 10)) == ("12 at \n, density", 10)
    assert id_in_run("7", 1) == "7"
    assert run_of("the (run 2) of") == ("the (run 2) of", 1)


@pytest.fixture(scope="module")
def pair():
    """A pair of which each thing was trained twice: the second training is the first once more."""
    pair = with_id(next(pair for pair in small_study.shared()["pairs"] if pair["name"] == "tuned"))
    files = pair["files"]
    paired = {key: files[key] for key in files if key.startswith(("pairing", "dictionary", "features"))}
    twice = {
        "repeats": [paired],
        "crosscoders": [*files["crosscoders"], {**files["crosscoders"][0], "seed": 1}],
        "template_diffs": [{**diff, "repeats": [diff]} for diff in files["template_diffs"]],
    }
    return {**pair, "files": {**files, **twice}}


def findings(pair, method, run):
    files = {**pair["files"], "crosscoders": pair["files"]["crosscoders"][:1]}
    candidates = proposer.of(method).candidates(files)[:4]
    return [Finding(method.name, each.side, each.id, each.effect, run) for each in candidates]


def page_of(pair):
    return PageData({**small_study.shared(), "pairs": [pair]}, n_contexts=2, n_full_cells=1, cell=pair)


@pytest.mark.parametrize("name", TRAINED)
def test_a_finding_of_a_later_training_is_read_in_the_files_of_that(pair, name):
    method = methods.named(name)
    sections = method_sections.of(method)
    first, second = (findings(pair, method, run) for run in (1, 2))
    items = sections.evidence(pair, page_of(pair), [*first, *second])
    assert first
    for one, other in zip(first, second, strict=True):
        assert "(run 2)" in sections.claim(pair, other)
        assert sections.claim(pair, other).replace(" (run 2)", "") == sections.claim(pair, one)
        assert items[one].context_lists == items[other].context_lists
        assert items[one].facts == items[other].facts
        assert items[one].context_lists


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_that_is_not_there_is_no_other_one(pair, name):
    method = methods.named(name)
    (third, *_) = findings(pair, method, 3)
    with pytest.raises((IndexError, KeyError)):
        method_sections.of(method).evidence(pair, page_of(pair), [third])[third]


def test_no_feature_of_the_first_dictionary_is_marked_for_one_of_the_second(pair):
    found = findings_stage.read(small_study.shared()["findings"])
    own = found.ids("tuned", pair["site"], "linear_map")
    second = {"id": np.array([id_in_run(str(each), 2) for each in found.table["id"]])}
    trained = second | {"seeds": np.full(len(second["id"]), "2/3")}
    assert own
    assert not replace(found, table=found.table | trained).ids("tuned", pair["site"], "linear_map")
    # Where nothing was trained, an id that ends so is a name.
    assert len(replace(found, table=found.table | second).ids("tuned", pair["site"], "linear_map")) == len(own)
