"""What a method that found nothing could have seen, in words; marks; and that a study is never silent about it."""

import pytest

import small_study
from diptych import methods
from diptych.candidates import proposer
from diptych.candidates.detection import NOTHING, Detection, Limit, Measured, Null
from diptych.candidates.proposer import Judged
from diptych.candidates.ranking import Q, Threshold
from diptych.crosscoder import candidates as crosscoder
from diptych.findings import conclusions, stage, unseen
from diptych.storage import artifacts

HOSTILE = "<script>document.title='broken'</script>"
MAP, CROSSCODER = methods.named("linear_map"), methods.named("crosscoder")
AS_MEASURED = Threshold(Q, MAP.min_effect)


def table(**changed):
    """A made-up table: a map with a curve, above nominal on swapped labels; a crosscoder that saw little."""
    curve = [
        Limit(2000, 50, None, 9, 24, 0.0001, 0.02),
        Limit(8000, 200, 0.004, 20, 24, 0.0001, 0.02),
        Limit(32_000, 800, 0.0001, 24, 24, 0.0001, 0.02),
    ]
    nulls = (Null("halves", 40, 1, 0, False), Null("swap", 40, 14, 1, True))
    measured = {
        "linear_map": Measured("linear map", 0, curve, nulls),
        "crosscoder_batchtopk": Measured("BatchTopK crosscoder", 800, curve, nulls[:1]),
        "crosscoder_topk": Measured(HOSTILE, 800, curve[:1], (Null(HOSTILE, 40, 14, 1, True),)),
    }
    return Detection(48, {}, measured | changed)


def said(tokens, entry="linear_map", method=MAP, threshold=AS_MEASURED, detection=None):
    return unseen.unseen(method, [Judged(entry, tokens)], detection or table(), threshold)


def test_between_two_measured_numbers_of_tokens_the_smaller_holds():
    assert said(9_000) == unseen.Unseen(
        "0.4 %",
        "On planted pairs of width 48 with 8,000 tokens the linear map sees a direction that carries 0.4 % of one "
        "model's variance (20 of 24 found); with your 9,000 tokens expect the same of differences like these.",
    )


def test_a_bound_is_said_to_be_one():
    most, least = said(7_999), said(10**6)
    assert most.least == "more than 2.0 %"
    assert "misses even a direction that carries 2.0 % of one model's variance, the largest that was" in most.text
    assert "(9 of 24 found); with your 7,999 tokens" in most.text
    assert least.least == "at most 0.01 %"
    assert (
        "sees even a direction that carries 0.01 % of one model's variance, the smallest that was planted" in least.text
    )


def test_fewer_tokens_than_any_measured_see_less():
    shown = said(500, "crosscoder_batchtopk", CROSSCODER, detection=table(crosscoder_batchtopk=Measured(
        "BatchTopK crosscoder", 800, [Limit(2000, 50, 0.01, 22, 24, 0.0001, 0.02)], ())))  # fmt: skip
    assert shown.least == "more than 1.0 %"
    assert shown.text.startswith(
        "With your 500 tokens the BatchTopK crosscoder, trained for 800 steps, sees less than on planted pairs of "
        "width 48 with 2,000 tokens, the fewest that were measured, where it sees a direction that carries 1.0 % of one"
    )
    assert said(500).least == "more than 2.0 %"


def test_several_seeds_are_one_sentence_and_two_kinds_are_two():
    seeds = [Judged("crosscoder_batchtopk", tokens) for tokens in (9_100, 9_000)]
    assert unseen.unseen(CROSSCODER, seeds, table(), Threshold(Q, CROSSCODER.min_effect)) == said(
        9_000, "crosscoder_batchtopk", CROSSCODER, Threshold(Q, CROSSCODER.min_effect)
    )
    both = unseen.unseen(CROSSCODER, [*seeds, Judged("", 9_000)], table(), Threshold(Q, CROSSCODER.min_effect))
    assert both.least == "0.4 % and not measured"


@pytest.mark.parametrize("method", methods.proposing(), ids=lambda method: method.name)
def test_a_method_that_was_not_measured_says_so(method):
    threshold = Threshold(None if method.is_exact else Q, method.min_effect)
    for judged in ([], [Judged("", 9)], [Judged("crosscoder_of_another_kind", 9)]):
        shown = unseen.unseen(method, judged, NOTHING, threshold)
        if method.is_exact:
            assert shown.text == "It is exact: a change of at least .001 of A's norm would have been found."
        else:
            assert shown.least == "not measured"
            assert "was not measured" in shown.text
    assert unseen.false_discoveries(method, [], NOTHING).mark == ""


def test_other_thresholds_than_those_of_the_table_are_said():
    assert "which this study has changed" in said(9_000, threshold=Threshold(Q, 0.5)).text
    assert "which this study has changed" not in said(9_000).text


def test_a_method_above_nominal_is_marked_with_its_count():
    found = unseen.false_discoveries(MAP, [Judged("linear_map", 9)], table())
    assert found.counts == "1 of 40 halves of one model, 14 of 40 pairs with swapped labels"
    assert found.mark == (
        "The linear map finds more than it should where nothing differs: something at q ≤ .05 in 14 of 40 pairs with "
        "swapped labels, where 5 % are nominal."
    )
    assert unseen.false_discoveries(CROSSCODER, [Judged("crosscoder_batchtopk", 9)], table()).mark == ""


@pytest.mark.parametrize(
    ("settings", "entry"),
    [
        ({"objective": "batchtopk", "shared": 0.0, "dedicated": [], "matryoshka": []}, "crosscoder_batchtopk"),
        ({"objective": "l1"}, "crosscoder_l1"),
        ({"objective": "batchtopk", "dedicated": [0.1, 0.1]}, "crosscoder_dedicated"),
        ({"objective": "batchtopk", "matryoshka": [0.5], "shared": 0.5}, ""),
        ({"objective": "topk", "shared": 0.5}, ""),
        ({"scales": [], "models": [None, None]}, ""),
    ],
)
def test_a_crosscoder_is_judged_as_it_was_trained(settings, entry):
    assert crosscoder._entry(settings) == entry


# --- a study --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """The findings of the small study where no effect is large enough, by the made-up table."""
    folder = tmp_path_factory.mktemp("silent")
    least = dict.fromkeys((method.name for method in methods.proposing()), 99.0)
    pairs = small_study.shared()["pairs"]
    stage.collect(pairs, folder / "f.h5", folder / "f.tsv", spec={}, min_effect=least, detection=table())
    return stage.read(folder / "f.h5")


def test_wherever_nothing_is_found_it_says_what_could_have_been(silent):
    nothing = [a for a in silent.answers if a["status"] in conclusions.FOUND_NOTHING]
    assert {a["method"] for a in nothing} >= {"means", "linear_map", "pairing", "crosscoder", "template"}
    for answer in nothing:
        assert answer["limit"], answer
        assert answer["least"], answer
    texts = {a["method"]: a["limit"] for a in nothing if a["pair"] == "tuned"}
    assert "with your 2,400 tokens expect the same" in texts["linear_map"]
    assert texts["means"] == "The smallest difference that the difference of means sees was not measured."
    assert "it reads one dictionary at the tokens of a chat template" in texts["template"]
    assert "a crosscoder of this kind" in texts["crosscoder"]


def test_a_model_with_itself_has_no_limit(silent):
    of_equals = [a for a in silent.answers if a["role"] in ("control", "floor")]
    assert of_equals
    assert {(a["limit"], a["least"]) for a in of_equals} == {("", "")}


def test_every_method_tells_the_rows_that_it_read():
    files = small_study.shared()["pairs"][0]["files"]
    judged = {method.name: proposer.of(method).judged(files) for method in methods.proposing("site")}
    assert judged["linear_map"] == [Judged("linear_map", 2400)]
    assert judged["means"] == [Judged("means", 2400)]
    assert judged["pairing"] == [Judged("pairing", 2400)]
    assert judged["template"] == ()
    (run,) = judged["crosscoder"]
    with artifacts.read(files["crosscoders"][0]["weights"], "crosscoder") as file:
        aside = artifacts.read_json(file, "summary")["rows_calibration"]
    assert run.tokens + aside == 2400
