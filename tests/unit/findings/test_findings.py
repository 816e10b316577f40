import copy
import dataclasses
import shutil

import numpy as np
import pytest

import small_study
from diptych import methods
from diptych.activations import rows
from diptych.candidates import ranking, repetition
from diptych.candidates.candidate import abs_cosine
from diptych.candidates.recovery import Recovery, read_truth
from diptych.crosscoder import candidates as crosscoder_candidates
from diptych.findings import conclusions, schema, stage
from diptych.findings import table as table_of_findings
from diptych.linear_map import stage as linear_map
from diptych.oracle import planted
from diptych.steering import directions
from diptych.storage import artifacts
from diptych.storage.canonical import canonical_json
from diptych.template_diff import candidates as template_candidates
from edited import edited
from example_candidates import THRESHOLD, make_candidate


@pytest.fixture
def study():
    return small_study.shared()


def test_a_change_that_no_feature_describes_leaves_nothing_to_say(study, tmp_path):
    pair = copy.deepcopy(study["pairs"][0])
    run = pair["files"]["template_diffs"][0]
    changed = tmp_path / "d.h5"
    for unexplained, status in ((0.9, ("not_repeated", "none")), (1.1, ("untested",))):
        shutil.copy(run["diff"], changed)
        with edited(changed) as file:
            summary = artifacts.read_json(file, "summary")
            for numbers in summary["roles"].values():
                numbers["change_unexplained"] = unexplained
            file.attrs["summary"] = canonical_json(summary)
        pair["files"]["template_diffs"] = [{**run, "diff": str(changed)}]
        stage.collect([pair], tmp_path / "f.h5", tmp_path / "f.tsv", spec={}, min_effect=small_study.MIN_EFFECT)
        answer = next(a for a in stage.read(tmp_path / "f.h5").answers if a["method"] == "template")
        assert answer["status"] in status, answer["text"]
    assert "does not describe that of the activations" in answer["text"]


def test_template_findings_are_of_the_features_that_changed(study):
    found = stage.read(study["findings"])
    answers = {a["pair"]: a for a in found.answers if a["method"] == "template"}
    assert answers["control"]["status"] == "as_it_must"
    assert answers["tuned"]["status"] in ("not_repeated", "none")
    run = study["pairs"][0]["files"]["template_diffs"][0]
    ranked = {
        c.candidate.id: c
        for c in ranking.rank(template_candidates.candidates({"template_diffs": [run]}), THRESHOLD).candidates
    }
    with artifacts.read(run["diff"], "template_diff") as file:
        table = artifacts.read_table(file, "ranked")
    for k in range(len(table["latent"])):
        name = template_candidates.label(int(table["latent"][k]), str(table["role"][k]), str(table["metric"][k]))
        assert ranked[name].q == table["q"][k]
        assert ranked[name].candidate.side == ("B" if table["gain"][k] > 0 else "A")
    written = [i for i in range(len(found.table["pair"])) if found.table["method"][i] == "template"]
    assert set(found.table["pair"][written]) <= {"tuned"}


def test_silence_is_an_answer_only_where_the_plant_was_found():
    silent = ranking.rank([], THRESHOLD)
    seen = Recovery(True, 1, 0.99, 1.0, 4, "feature 1", 0)
    missed = dataclasses.replace(seen, written=False, rank=0)

    def status(yardstick):
        return conclusions.answer("compared", methods.named("pairing"), silent, yardstick)

    assert status(conclusions.PositiveControl("planted", seen, [])).status == "none"
    assert status(conclusions.PositiveControl("planted", missed, [])).text.endswith("not enough training to tell")
    assert status(conclusions.PositiveControl("planted", seen, ["pairing.cut"])).status == "unclear"
    assert "pairing.cut" in status(conclusions.PositiveControl("planted", seen, ["pairing.cut"])).text
    assert status(None).status == "unclear"


def test_what_was_steered_has_its_effect(study):
    """`causal` is of the direction of that name, side and pair, and of nothing else."""
    table = stage.read(study["findings"]).table
    steered = [
        (pair, method, side, name) in {(p, "linear_map", "B", "unexplained 1") for p in ("tuned", "planted")}
        for pair, method, side, name in zip(table["pair"], table["method"], table["side"], table["id"], strict=True)
    ]
    assert any(steered)
    np.testing.assert_array_equal(table["causal"][steered], 3.0)
    assert (table["leg_causal"][steered] == "holds").all()
    assert (table["leg_causal"][~np.array(steered)] == "untested").all()
    assert np.isnan(table["causal"][~np.array(steered)]).all()


def test_what_is_steered_along_is_what_is_reported(study):
    files = study["pairs"][1]["files"]
    plan = directions.select(files, top=1, matched=0, random=0, latents=0, seed=0)
    table = stage.read(study["findings"]).table
    reported = set(zip(*(table[name][table["pair"] == "planted"] for name in ("method", "side", "id")), strict=True))
    steered = {(item.method, item.side, item.id) for item in plan.items}
    assert {method for method, *_ in steered} == {"linear_map", "means", "pairing", "crosscoder"}
    assert steered <= reported


def test_planted_direction_is_recovered_by_every_method(study):
    answers = {a["method"]: a for a in stage.read(study["findings"]).answers if a["pair"] == "planted"}
    assert set(answers) == {method.name for method in methods.proposing("site")} - {
        "template"
    }  # that one plants its own
    for method, answer in answers.items():
        assert answer["status"] == "recovered", (method, answer["text"])
        assert answer["recovery"]["cosine"] >= 0.9


def test_findings_are_stored_with_their_directions(study):
    """Of every method that found it the planted direction is among those of its findings."""
    found = stage.read(study["findings"])
    truth = read_truth(study["pairs"][1]["files"]["truth"])
    nearest = {}
    for i, direction in found.directions.items():
        if found.table["pair"][i] == "planted":
            cosine = abs_cosine(direction[np.isfinite(direction)].astype(np.float64), truth)
            nearest[found.table["method"][i]] = max(cosine, nearest.get(found.table["method"][i], 0.0))
    assert set(nearest) >= {"linear_map", "pairing", "crosscoder", "means"}
    assert all(nearest[method] >= 0.9 for method in ("linear_map", "pairing", "crosscoder", "means")), nearest
    without = set(range(len(found.table["kind"]))) - set(found.directions)
    assert {found.table["kind"][i] for i in without} <= {"token", "weights"}


def test_directions_of_narrower_spaces_are_padded():
    """Of three entries the second has none."""
    vectors = [np.array([1.0, 2.0]), np.zeros(0), np.array([3.0, 4.0, 5.0])]
    candidates = [make_candidate(kind="direction", direction=vector) for vector in vectors]
    entries = [
        table_of_findings.Entry({}, methods.named("means"), each, (), np.zeros(0, np.int64), "")
        for each in (ranking.rank([candidate], THRESHOLD).candidates[0] for candidate in candidates)
    ]
    places, padded = table_of_findings.directions(entries)
    assert places.tolist() == [0, 2]
    np.testing.assert_array_equal(padded, [[1, 2, np.nan], [3, 4, 5]])
    assert [part.shape for part in table_of_findings.directions([])] == [(0,), (0, 0)]


def test_differences_of_the_tuned_pair_are_found_on_their_side(study):
    found = stage.read(study["findings"])
    table = found.table
    mine = [i for i in range(len(table["pair"])) if table["pair"][i] == "tuned"]
    assert {table["method"][i] for i in mine} >= {"linear_map", "pairing"}
    assert (table["q"][mine] <= 0.05).all()
    effect = table["effect"][mine]
    assert ((effect > 0) == (table["side"][mine] == "B")).all()
    assert (np.abs(table["held_out"][mine]) >= 0.5 * np.abs(effect)).all()
    order = [table_of_findings.STATUSES.index(status) for status in table["status"]]
    assert order == sorted(order)


def test_a_method_that_depends_on_training_needs_a_second_seed(study):
    """The small study has one dictionary and one crosscoder a model; means and linear map train nothing."""
    found = stage.read(study["findings"])
    by_method = {}
    for method, status, seeds, note in zip(
        *(found.table[c] for c in ("method", "status", "seeds", "note")), strict=True
    ):
        by_method.setdefault(method, set()).add((status, seeds, bool(note)))
    assert by_method.pop("linear_map") == by_method.pop("means") == {("finding", "", False)}
    assert by_method
    assert all(seen == {("not repeated", "1/1", True)} for seen in by_method.values())
    answers = {a["method"]: a for a in found.answers if a["pair"] == "tuned"}
    assert answers["pairing"]["status"] == "not_repeated"
    assert "a second seed would tell" in answers["pairing"]["text"]


def test_control_and_floor_find_nothing(study):
    found = stage.read(study["findings"])
    assert found.control_holds is True
    assert not set(found.table["pair"]) & {"control", "floor"}
    assert {a["status"] for a in found.answers if a["pair"] in ("control", "floor")} == {"as_it_must"}
    clauses = {clause["name"]: clause["holds"] for clause in found.controls[0]["clauses"]}
    assert clauses["the best map is the identity, and exact"] is True
    assert clauses["no eligible feature is unmatched"] is True
    assert clauses["every template p is 1"] is True
    assert clauses["no finding"] is True


def test_a_broken_control_fails_its_clauses(study, tmp_path):
    """The tuned pair passed off as a control: other activations on both sides."""
    pair = {**copy.deepcopy(study["pairs"][0]), "role": "control", "name": "control"}
    stage.collect([pair], tmp_path / "f.h5", tmp_path / "f.tsv", spec={})
    found = stage.read(tmp_path / "f.h5")
    assert found.control_holds is False
    broken = [clause["name"] for clause in found.controls[0]["clauses"] if clause["holds"] is False]
    assert "the best map is the identity, and exact" in broken
    assert "no eligible feature is unmatched" in broken
    assert "every template p is 1" in broken
    assert "no finding" in broken


def test_a_plant_with_other_settings_does_not_speak(study, tmp_path):
    pairs = copy.deepcopy(study["pairs"][:2])
    changed = tmp_path / "linear_map.h5"
    shutil.copy(pairs[1]["files"]["linear_map"], changed)
    with edited(changed) as file:
        file.attrs["spec"] = canonical_json({"settings": {"shrink_to": "zero"}, "reads": {"corpus": "addresses"}})
    pairs[1]["files"]["linear_map"] = str(changed)
    stage.collect(
        pairs,
        tmp_path / "f.h5",
        tmp_path / "f.tsv",
        spec={},
        min_effect=dict.fromkeys((method.name for method in methods.proposing()), 99.0),
    )
    answers = {(a["pair"], a["method"]): a for a in stage.read(tmp_path / "f.h5").answers}
    assert "linear_map.shrink_to" in answers["tuned", "linear_map"]["text"]
    assert answers["tuned", "linear_map"]["status"] == "unclear"


def test_an_unreachable_threshold_misses_the_plant_and_says_so(study, tmp_path):
    stage.collect(
        study["pairs"],
        tmp_path / "f.h5",
        tmp_path / "f.tsv",
        spec={},
        min_effect=dict.fromkeys((method.name for method in methods.proposing()), 99.0),
    )
    answers = {(a["pair"], a["method"]): a for a in stage.read(tmp_path / "f.h5").answers}
    assert answers["planted", "pairing"]["status"] == "missed"
    assert answers["tuned", "pairing"]["status"] == "unclear"
    assert (tmp_path / "f.tsv").read_text() == f"# {schema.TITLE}\n" + "\t".join(schema.NAMES) + "\n"


def test_the_same_inputs_give_the_same_bytes(study, tmp_path):
    for name in ("one", "two"):
        stage.collect(study["pairs"], tmp_path / f"{name}.h5", tmp_path / f"{name}.tsv", spec=small_study.SPEC)
    assert (tmp_path / "one.tsv").read_bytes() == (tmp_path / "two.tsv").read_bytes()
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def only_map(tmp_path, role, made, x_B=None):
    """A pair with nothing but a linear map."""
    x_B = made.x_B if x_B is None else x_B
    small_study.write_tokens(tmp_path / "tokens.h5", made.document)
    both = rows.in_memory([made.x_A, x_B], made.document, fold=made.document % 5, source=made.document % 2)
    linear_map.fit(both, tmp_path / "map.h5", spec={}, directions=3, contexts=5, bootstrap=50)
    tokens = str(tmp_path / "tokens.h5")
    files = {"linear_map": str(tmp_path / "map.h5"), "tokens_a": tokens, "tokens_b": tokens, "crosscoders": []}
    names = {"name": role, "role": role, "a": "base", "b": "other", "corpus": "addresses"}
    return {**names, "site_a": "middle", "site_b": "middle", "files": files}


def collected(tmp_path, pair):
    stage.collect([pair], tmp_path / "f.h5", tmp_path / "f.tsv", spec={})
    return stage.read(tmp_path / "f.h5")


def test_a_control_whose_rows_are_shifted_by_one_fails(tmp_path):
    same = planted.identical_pair(3, **small_study.PLANTED_SETTINGS)
    assert collected(tmp_path, only_map(tmp_path, "control", same)).control_holds is True
    shifted = collected(tmp_path, only_map(tmp_path, "control", same, np.roll(same.x_A, 1, axis=0)))
    assert shifted.control_holds is False
    clauses = {clause["name"]: clause["holds"] for clause in shifted.controls[0]["clauses"]}
    assert clauses["the best map is the identity, and exact"] is False


def test_unequal_widths_are_said_to_be_untested(tmp_path):
    made = planted.make_pair(1, labels={"only_B": 1}, **{**small_study.PLANTED_SETTINGS, "d_B": 20, "same_map": False})
    found = collected(tmp_path, only_map(tmp_path, "compared", made))
    assert [(a["status"], a["text"]) for a in found.answers] == [
        ("untested", "nothing can be said: no candidate could be tested")
    ]


def test_no_finding_on_pairs_that_differ_in_noise_only(tmp_path):
    """Two models with the same features and map and independent noise."""
    for seed in range(4):
        made = planted.make_pair(seed, **small_study.PLANTED_SETTINGS, noise=0.2)
        found = collected(tmp_path, only_map(tmp_path, "compared", made))
        assert len(found.table["pair"]) == 0, seed


def test_latent_scaling_bars_what_the_other_model_has(study, tmp_path):
    files = copy.deepcopy(study["pairs"][1]["files"])
    changed = tmp_path / "latents.h5"
    shutil.copy(files["crosscoders"][0]["latents"], changed)
    files["crosscoders"][0]["latents"] = str(changed)
    offers = crosscoder_candidates.candidates(files)
    latent = next(offer for offer in offers if offer.side == "B")
    assert latent.barred == ""
    assert latent.effect > 0.5
    with edited(changed) as file:
        file["nu/err"][int(latent.id), 1, 0] = 0.4
    barred = next(offer for offer in crosscoder_candidates.candidates(files) if offer.id == latent.id)
    assert barred.barred == "latent scaling: nu_err 0.40, the other model has it too"
    assert not ranking.rank([barred], THRESHOLD).candidates[0].is_finding


def crosscoder_ranking(runs):
    proposes = crosscoder_candidates.PROPOSER
    by_run = repetition.candidates_by_run(proposes, {"crosscoders": runs})
    return repetition.over_runs([ranking.rank(candidates, THRESHOLD) for candidates in by_run])


def test_a_latent_of_two_equal_runs_is_a_finding_and_one_of_unlike_runs_is_none(study):
    run, other = (study["pairs"][place]["files"]["crosscoders"][0] for place in (1, 2))
    alone = crosscoder_ranking([run])
    assert {each.status for each in alone.reported} == {"not repeated"}
    twice = crosscoder_ranking([run, {**run, "seed": 1}])
    assert [each.candidate.id for each in twice.findings] == [each.candidate.id for each in alone.reported]
    assert {each.seeds for each in twice.findings} == {"2/2"}
    unlike = crosscoder_ranking([run, {**other, "seed": 1}])
    assert unlike.reported == []
    assert unlike.n_single == len(alone.reported)


def test_runs_of_two_crosscoders_are_counted_apart(study):
    run = study["pairs"][1]["files"]["crosscoders"][0]
    both = crosscoder_ranking([run, {**run, "seed": 1}, {**run, "name": "wide"}])
    assert {each.seeds for each in both.reported if each.candidate.id.startswith(run["name"])} == {"2/2"}
    assert {(each.seeds, each.status) for each in both.reported if each.candidate.id.startswith("wide ")} == {
        ("1/1", "not repeated")
    }


def test_a_pairing_repeated_with_the_same_dictionaries_is_found_again(study, tmp_path):
    pair = copy.deepcopy(study["pairs"][0])
    names = ("pairing", "dictionary_a", "dictionary_b", "features_a", "features_b")
    pair["files"]["repeats"] = [{name: pair["files"][name] for name in names}]
    stage.collect([pair], tmp_path / "f.h5", tmp_path / "f.tsv", spec={}, min_effect=small_study.MIN_EFFECT)
    table = stage.read(tmp_path / "f.h5").table
    statuses = {
        (status, seeds)
        for method, status, seeds in zip(table["method"], table["status"], table["seeds"], strict=True)
        if method == "pairing"
    }
    assert statuses == {("finding", "2/2")}


def test_unlike_sites_write_no_findings(study, tmp_path):
    """Layers differ in any model: what two of them do not share says nothing of the models."""
    pair = {**copy.deepcopy(study["pairs"][0]), "site_b": "last", "files": {**study["pairs"][0]["files"]}}
    stage.collect([pair], tmp_path / "f.h5", tmp_path / "f.tsv", spec={}, min_effect=small_study.MIN_EFFECT)
    found = stage.read(tmp_path / "f.h5")
    assert len(found.table["pair"]) == 0
    assert {answer["status"] for answer in found.answers} == {"untested"}
    assert all("middle and last are two places in a network" in answer["text"] for answer in found.answers)


def answer_to(*candidates):
    return conclusions.answer(
        "compared", methods.named("template"), ranking.rank(candidates, THRESHOLD), None, ("base", "tuned")
    )


SHIFTED = {"caveat": "domain shift", "remedy": "another dictionary would tell"}


def test_a_candidate_with_a_caveat_is_no_finding():
    mixed = answer_to(make_candidate(id="1"), make_candidate(id="2", **SHIFTED))
    assert mixed.status == "found"
    assert mixed.text == (
        "1 finding: 1 that tuned has or has more of, 0 of base; 1 that cannot be told from a domain shift"
    )
    shifted = answer_to(make_candidate(id="2", **SHIFTED))
    assert shifted.status == "cannot_be_told"
    assert shifted.text == "no finding; 1 that cannot be told from a domain shift; another dictionary would tell"
    assert answer_to(make_candidate(id="1")).text == "1 finding: 1 that tuned has or has more of, 0 of base"
