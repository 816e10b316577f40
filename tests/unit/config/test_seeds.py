"""Seeds of dictionaries: one dictionary each, and repeats of the pairs and template diffs that read them."""

import copy
from pathlib import Path

import pytest
import yaml

from diptych.config import cells, loading
from diptych.config.jobs import Jobs
from diptych.config.sections.strict import ConfigError
from diptych.config.seeds import repeated

ROOT = Path(__file__).parents[3]
CONFIG = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
SEEDS = {"base_sae": [0, 1], "tuned_sae": [0, 1, 2], "chat_sae": [0, 7]}


def study(seeds=SEEDS, change=lambda config: None):
    config = copy.deepcopy(CONFIG)
    for alias, section in config["dictionaries"].items():
        section["seeds"] = seeds.get(alias, [0])
    del config["pairs"]["floor"]
    change(config)
    return loading.load(config)


def test_a_dictionary_has_one_run_per_seed_and_the_first_keeps_the_alias():
    seeds = {alias: section.seeds for alias, section in study().dictionaries.items()}
    assert seeds == {
        "base_sae": (0,), "base_sae.1": (1,), "tuned_sae": (0,), "tuned_sae.1": (1,), "tuned_sae.2": (2,),
        "planted_sae": (0,), "chat_sae": (0,), "chat_sae.1": (7,),
    }  # fmt: skip


def test_a_further_seed_leaves_the_jobs_of_the_first_as_they_are():
    before, after = Jobs(study({})), Jobs(study())
    assert before.train_dictionary("base_sae") == after.train_dictionary("base_sae")
    cell = ("tuned", "middle", "middle")
    assert before.pair_features(*cell) == after.pair_features(*cell)
    assert after.train_dictionary("base_sae.1").settings["seed"] == 1


def test_pairs_are_repeated_as_often_as_both_dictionaries_are():
    loaded = study()
    assert set(loaded.pairs) - {"tuned", "planted", "control"} == {"tuned.1"}
    assert loaded.dictionaries_at("tuned.1", "middle", "middle") == ("base_sae.1", "tuned_sae.1")
    assert loaded.compared_pairs == ["control", "planted", "tuned"]
    assert (loaded.first_run("tuned.1"), loaded.first_run("tuned")) == ("tuned", "tuned")
    assert loaded.repeats("tuned", "middle") == ["tuned.1"]
    assert not loaded.is_steered("tuned.1", "middle", "middle")


def test_a_repeat_reads_the_map_of_its_pair_and_fits_none():
    jobs = Jobs(study())
    inputs = jobs.pair_features("tuned.1", "middle", "middle").inputs
    assert inputs["linear_map"] == jobs.layout.linear_map("tuned", "middle", "middle")
    assert inputs["correlation"] == jobs.layout.correlation("tuned.1", "middle", "middle")


def test_template_diffs_are_repeated_but_not_those_of_a_model_with_itself():
    loaded = study()
    assert set(loaded.template_diffs) == {"tuned", "control", "tuned.1"}
    assert loaded.template_diffs["tuned.1"].dictionary == "chat_sae.1"
    first, repeat = (Jobs(loaded).diff_template_tokens(alias) for alias in ("tuned", "tuned.1"))
    assert {**repeat.settings, "sae": "chat_sae"} == first.settings
    assert loaded.reported_diffs == ["tuned", "control"]
    assert {path.parent.name for path in Jobs(loaded).layout.pictures()} == {"tuned", "control"}


def test_findings_read_every_run():
    described = {cell["name"]: cell["files"] for cell in cells.all_cells(Jobs(study()).layout)}
    assert set(described) == {"control", "planted", "tuned"}
    (repeat,) = described["tuned"]["repeats"]
    assert repeat["pairing"] == "pairs/tuned.1/middle--middle/pairing.h5"
    assert repeat["dictionary_b"] == "dictionaries/tuned_sae.1/manifest.json"
    assert repeat["features_b"] == ["features/addresses/tuned/tuned_sae.1/0.h5"]
    assert described["planted"]["repeats"] == described["control"]["repeats"] == []
    (diff,) = described["tuned"]["template_diffs"]
    assert [run["diff"] for run in diff["repeats"]] == ["template_diffs/tuned.1/template_diff.h5"]
    assert set(described["tuned"]["template_diffs"][0]["repeats"][0]) == set(diff) - {"repeats"}


def test_only_equal_sites_are_repeated():
    def grid(config):
        config["sites"] = {"main": ["middle", "last"]}
        config["dictionaries"]["last_sae"] = {**config["dictionaries"]["base_sae"], "site": "last"}
        config["pairs"]["tuned"] |= {
            "sites": ["middle"], "sites_b": ["middle", "last"], "dictionary_b": ["tuned_sae", "last_sae"],
        }  # fmt: skip

    loaded = study(change=grid)
    assert loaded.cells("tuned.1") == [("middle", "middle")]
    assert loaded.dictionaries_of("tuned.1", "b") == ("tuned_sae.1",)


def test_a_pair_may_name_a_further_seed():
    def floor(config):
        config["pairs"]["floor"] = {**config["pairs"]["control"], "dictionary_b": "base_sae.1"}

    loaded = study(change=floor)
    assert loaded.role("floor", "middle", "middle") == "floor"
    assert loaded.repeats("floor", "middle") == []


def test_an_alias_that_seeds_need_may_not_be_taken():
    def taken(config):
        config["dictionaries"]["base_sae.1"] = config["dictionaries"]["base_sae"]

    with pytest.raises(ConfigError, match=r"dictionaries\.base_sae\.1: `seeds` of 'base_sae' makes this alias"):
        study(change=taken)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"seeds": [1, 1]}, "dictionaries.chat_sae.seeds: lists a seed twice; take one out"),
        ({"seeds": []}, "dictionaries.chat_sae.seeds: list should have at least 1 item"),
        ({"model": ["base", "base"]}, "dictionaries.chat_sae.model: lists a model twice; take one out"),
        ({"model": ["base"]}, "dictionaries.chat_sae.model"),
        ({"model": ["base", "tuend"]}, "dictionaries.chat_sae.model[1]: no model is called 'tuend'; did you mean"),
    ],
)
def test_models_and_seeds_of_a_dictionary_are_checked(section, message):
    def put(config):
        config["dictionaries"]["chat_sae"] |= section

    with pytest.raises(ConfigError) as error:
        study({}, put) if "seeds" not in section else study({"chat_sae": section["seeds"]})
    assert message in str(error.value)


def test_the_models_of_a_dictionary_share_a_tokenizer():
    def put(config):
        config["models"]["other"] = {"kind": "random"}
        config["dictionaries"]["chat_sae"]["model"] = ["base", "other"]

    with pytest.raises(ConfigError, match=r"chat_sae\.model: base and other have different tokenizers"):
        study({}, put)


def test_a_dictionary_of_several_models_reads_the_rows_of_each():
    def put(config):
        config["dictionaries"]["chat_sae"]["model"] = ["base", "tuned"]

    jobs = Jobs(study({}, put))
    job = jobs.train_dictionary("chat_sae")
    assert job.reads["models"] == ["base", "tuned"]
    assert [path.parent.parent.name for path in job.inputs["shards"]] == ["base", "tuned"]
    assert job.inputs["gates"] == [jobs.layout.gates_of("questions", model, "middle") for model in ("base", "tuned")]
    assert jobs.encode_features("questions", "tuned", "chat_sae", "0").settings == {"own": True}
    assert jobs.encode_features("questions", "planted", "chat_sae", "0").settings == {"own": False}


def test_a_dictionary_with_a_dotted_alias_of_its_own_is_no_further_seed():
    def dotted(config):
        config["dictionaries"]["base_sae.1"] = {**config["dictionaries"]["base_sae"], "n_features": 64}
        config["dictionaries"]["tuned_sae.1"] = {**config["dictionaries"]["tuned_sae"], "n_features": 64}

    assert study({}, dotted).repeats("tuned", "middle") == []


def test_repeated_aliases():
    assert [repeated("sae", run) for run in range(3)] == ["sae", "sae.1", "sae.2"]
