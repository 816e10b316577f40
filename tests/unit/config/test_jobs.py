"""Inputs and settings of jobs: expected values for some, properties of every job."""

import inspect
from pathlib import Path

import pytest
import yaml

from diptych.candidates import detection
from diptych.config import loading
from diptych.config.job import files_at
from diptych.config.jobs import Jobs
from trees import ROOT


def default_config():
    return yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def jobs(changes=None):
    config = default_config()
    for path, value in (changes or {}).items():
        section = config
        *keys, last_key = path.split(".")
        for key in keys:
            section = section.setdefault(key, {})
        section[last_key] = value
    return Jobs(loading.load(config))


JOBS = jobs()
CELL = {"pair": "tuned", "site_a": "middle", "site_b": "middle"}
RUN = {"crosscoder": "tuned", "site": "middle", "seed": "0"}


def test_a_linear_map_reads_the_rows_of_both_models():
    job = JOBS.fit_linear_map(**CELL)
    directory = "results/activations/addresses"
    assert [str(path) for path in job.inputs["shards_a"]] == [f"{directory}/base/{JOBS.study.group('middle')}/0.h5"]
    assert str(job.inputs["gates_b"]) == f"{directory}/tuned/{JOBS.study.group('middle')}/gates.h5"
    assert job.inputs["alignment"] == []
    assert {key: job.reads[key] for key in ("a", "b", "corpus", "site_a")} == {
        "a": "base", "b": "tuned", "corpus": "addresses", "site_a": "middle",
    }  # fmt: skip
    assert job.settings == JOBS.study.linear_map.model_dump(mode="json")


def test_settings_contain_only_keys_that_change_a_result():
    settings = JOBS.train_crosscoder(**RUN).settings
    assert settings["seed"] == 0
    assert not {"processes", "track", "checkpoint_every", "models", "seeds", "sweep"} & set(settings)
    assert jobs({"crosscoders.tuned.processes": 2}).train_crosscoder(**RUN) == JOBS.train_crosscoder(**RUN)
    assert jobs({"crosscoders.tuned.k": 17}).train_crosscoder(**RUN).settings["k"] == 17
    assert jobs({"correlation.memory": 1}).correlate_features(**CELL) == JOBS.correlate_features(**CELL)


def test_findings_are_made_again_when_other_limits_are_measured():
    assert detection.PATH in JOBS.collect_findings().files
    assert detection.PATH not in JOBS.build_report().files, "the page reads them in the findings"


def test_a_streamed_crosscoder_reads_models_and_no_rows():
    job = jobs({"crosscoders.tuned.stream": "nineteenth"}).train_crosscoder(**RUN)
    assert "shards" not in job.inputs
    assert [path.parent.name for path in job.inputs["models"]] == ["base", "tuned"]
    assert job.reads["stream"]["corpus"] == "nineteenth"


def test_an_imported_crosscoder_reads_its_weights_and_the_configs_beside_them(tmp_path):
    for name in ("model.safetensors", "config.json", "trainer_config.json", "notes.txt"):
        (tmp_path / name).touch()
    weights = {"crosscoders.tuned.weights": str(tmp_path), "crosscoders.tuned.scales": [0.3, 0.2]}
    job = jobs(weights).import_crosscoder(**RUN)
    names = ("model.safetensors", "config.json", "trainer_config.json")
    assert job.inputs == {"weights": [tmp_path / name for name in names]}
    assert job.settings == {"scales": [0.3, 0.2], "calibrate": False, "models": [None, None], "hub": None}
    calibrated = jobs({**weights, "crosscoders.tuned.calibrate": True}).import_crosscoder(**RUN)
    assert calibrated.inputs["shards"] == JOBS.train_crosscoder(**RUN).inputs["shards"]
    assert calibrated.settings["calibrate"] is True
    hub = {"models.base": {"kind": "hub", "id": "org/base", "revision": "main"}}
    assert jobs({**weights, **hub}).import_crosscoder(**RUN).settings["models"] == ["org/base", None]


def test_sites_that_differ_are_not_compared_latent_by_latent():
    grid_jobs = jobs(
        {
            "sites.main": ["middle", "last"],
            "dictionaries.tuned_last": {"model": "tuned", "corpus": "addresses", "site": "last"},
            "pairs.tuned.sites": ["middle"],
            "pairs.tuned.sites_b": ["middle", "last"],
            "pairs.tuned.dictionary_a": ["base_sae"],
            "pairs.tuned.dictionary_b": ["tuned_sae", "tuned_last"],
        }
    )
    exchanged = {"features_a_on_b", "features_b_on_a"}
    assert exchanged <= set(grid_jobs.pair_features(**CELL).inputs)
    assert not exchanged & set(grid_jobs.pair_features("tuned", "middle", "last").inputs)


def test_an_adapter_is_fetched_by_one_job_and_merged_by_another(tmp_path):
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").touch()
    source = {"path": str(tmp_path), "id": None, "revision": None, "subfolder": None, "chat_template": "rag"}
    study = jobs({"models.more": {"kind": "adapter", "parent": "base", "path": str(tmp_path), "chat_template": "rag"}})
    fetched, derived = study.fetch_adapter("more"), study.derive_model("more")
    assert fetched.settings == {"source": source}
    assert tmp_path / "additional_chat_templates" / "rag.jinja" in fetched.inputs["files"]
    assert {name: str(path) for name, path in derived.inputs.items()} == {
        "parent": "results/models/base/manifest.json",
        "adapter": "results/adapters/more/manifest.json",
    }
    assert (derived.reads, derived.settings) == ({"kind": "adapter", "parent": "base"}, {})
    assert study.study.tokenizer("more") == "base"


def test_files_of_a_user_are_inputs(tmp_path):
    assert files_at(None) == []
    assert files_at(str(tmp_path / "absent")) == []
    (tmp_path / "b").touch()
    (tmp_path / "a").touch()
    assert files_at(str(tmp_path)) == [tmp_path / "a", tmp_path / "b"]
    assert files_at(str(tmp_path / "a")) == [tmp_path / "a"]


# `plan` prints and writes nothing.
RULES = sorted({path.stem for path in (ROOT / "workflow" / "scripts").glob("*.py")} - {"plan"})


@pytest.mark.parametrize("rule", RULES)
def test_every_script_has_a_job_and_its_spec_names_no_path_below_the_results(rule):
    assert callable(getattr(Jobs, rule))
    wildcards = {
        "crosscoder": "tuned", "pair": "tuned", "site": "middle", "site_a": "middle", "site_b": "middle", "seed": "0",
        "model": {"fetch_model": "base", "derive_model": "tuned"}.get(rule, "base"), "corpus": "addresses",
        "tokenizer": "base", "tokenizer_a": "base", "tokenizer_b": "base", "shard": "0",
        "group": JOBS.study.group("middle"), "template_diff": next(iter(JOBS.study.template_diffs)),
        "dictionary": next(iter(JOBS.study.dictionaries)), "method": "linear_map", "case": "one_basis",
    }  # fmt: skip
    names = list(inspect.signature(getattr(Jobs, rule)).parameters)[1:]
    job = JOBS.job(rule, {name: wildcards[name] for name in names})
    assert job.inputs
    assert f"{JOBS.study.results}/" not in str((job.reads, job.settings))
    assert all(
        isinstance(path, Path)
        for paths in job.inputs.values()
        for path in ([paths] if isinstance(paths, Path) else paths)
    )


def test_auto_is_resolved_when_jobs_are_planned_and_only_for_forward_passes(monkeypatch):
    """On two kinds of machines a study plans jobs that say what they compute in; what is derived is the same."""
    planned = {}
    for dtype in ("float32", "bfloat16"):
        monkeypatch.setenv("DIPTYCH_DTYPE", dtype)
        auto = {f"models.{name}.dtype": "auto" for name in ("base", "planted")}
        planned[dtype] = jobs(auto | {"models.tuned.dtype": "float16", "crosscoders.tuned.stream": "nineteenth"})
        assert planned[dtype].dump_activations("addresses", "base", "main", "0").settings["dtype"] == dtype
        assert planned[dtype].dump_activations("addresses", "tuned", "main", "0").settings["dtype"] == "float16"
        assert planned[dtype].compare_outputs("tuned").reads["dtype_a"] == dtype
        assert planned[dtype].steer_features(**CELL).reads["dtype_a"] == dtype
        assert planned[dtype].train_crosscoder(**RUN).reads["stream"]["dtypes"] == [dtype, "float16"]
        named = {model["name"]: model["dtype"] for model in planned[dtype].build_report().reads["models"]}
        assert named == {"base": dtype, "planted": dtype, "tuned": "float16"}
    for model in ("tuned", "planted"):
        assert planned["float32"].derive_model(model) == planned["bfloat16"].derive_model(model)
    assert planned["float32"].fetch_model("base") == planned["bfloat16"].fetch_model("base")


def test_a_job_asks_for_the_gpus_of_the_widest_model_that_it_runs():
    changes = {"models.tuned.gpus": 3, "crosscoders.planted.splice_tokens": 0}
    wide = jobs(changes | {"crosscoders.tuned.stream": "questions", "crosscoders.tuned.model_gpus": 3})
    assert wide.dump_activations("addresses", "tuned", "main", "0").gpus == 3
    assert wide.dump_activations("addresses", "base", "main", "0").gpus == 1
    assert (wide.compare_outputs("tuned").gpus, wide.compare_outputs("planted").gpus) == (3, 1)
    assert wide.steer_features(**CELL).gpus == 3
    assert wide.train_crosscoder(**RUN).gpus == 3
    assert wide.evaluate_crosscoder(**RUN).gpus == 3
    planted = {**RUN, "crosscoder": "planted"}
    assert (wide.train_crosscoder(**planted).gpus, wide.evaluate_crosscoder(**planted).gpus) == (1, 1)
    assert wide.derive_model("tuned").gpus == 1, "training is on one"
    assert jobs({"models.base.gpus": 2}).derive_model("planted").gpus == 2


def test_a_pair_may_have_a_pairing_of_its_own():
    changed = jobs({"pairs.tuned.pairing": {"rule": "hungarian", "score": "euclidean"}})
    assert changed.pair_features(**CELL).settings["rule"] == "hungarian"
    other = {**CELL, "pair": "planted"}
    assert changed.pair_features(**other).settings == JOBS.pair_features(**other).settings


def test_named_features_are_steered_along_where_their_dictionary_is_read():
    changed = jobs({"steering.features": {"base_sae": [3, 5]}})
    settings = changed.steer_features(**CELL).settings
    assert (settings["features_a"], settings["features_b"]) == ([3, 5], [])


def test_steered_features_of_an_unknown_dictionary_are_refused():
    with pytest.raises(loading.ConfigError, match=r"steering\.features: no dictionary is called 'base_sea'; did you"):
        jobs({"steering.features": {"base_sea": [3]}})
