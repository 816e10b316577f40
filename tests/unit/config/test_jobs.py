"""What a job reads and with which settings: by hand for some, and what holds for every job of every study."""

import inspect
from pathlib import Path

import pytest
import yaml

from diptych.config import loading
from diptych.config.job import files_at
from diptych.config.jobs import Jobs
from trees import ROOT


def config(name="config/config.yaml"):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def jobs(change=None):
    values = config()
    for path, value in (change or {}).items():
        section = values
        *keys, last = path.split(".")
        for key in keys:
            section = section.setdefault(key, {})
        section[last] = value
    return Jobs(loading.load(values))


JOBS = jobs()
CELL = {"pair": "tuned", "site_a": "middle", "site_b": "middle"}
RUN = {"crosscoder": "tuned", "site": "middle", "seed": "0"}


def test_a_linear_map_reads_the_rows_of_both_models():
    job = JOBS.fit_linear_map(**CELL)
    rows = "results/activations/addresses"
    assert [str(path) for path in job.inputs["shards_a"]] == [f"{rows}/base/{JOBS.study.group('middle')}/0.h5"]
    assert str(job.inputs["gates_b"]) == f"{rows}/tuned/{JOBS.study.group('middle')}/gates.h5"
    assert job.inputs["alignment"] == []
    assert {key: job.reads[key] for key in ("a", "b", "corpus", "site_a")} == {
        "a": "base", "b": "tuned", "corpus": "addresses", "site_a": "middle",
    }  # fmt: skip
    assert job.settings == JOBS.study.linear_map.model_dump(mode="json")


def test_settings_hold_what_changes_a_result_and_nothing_else():
    spec = JOBS.train_crosscoder(**RUN).settings
    assert spec["seed"] == 0
    assert not {"processes", "track", "checkpoint_every", "models", "seeds", "sweep"} & set(spec)
    assert jobs({"crosscoders.tuned.processes": 2}).train_crosscoder(**RUN) == JOBS.train_crosscoder(**RUN)
    assert jobs({"crosscoders.tuned.k": 17}).train_crosscoder(**RUN).settings["k"] == 17
    assert jobs({"correlation.memory": 1}).correlate_features(**CELL) == JOBS.correlate_features(**CELL)


def test_a_streamed_crosscoder_reads_models_and_no_rows():
    job = jobs({"crosscoders.tuned.stream": "nineteenth"}).train_crosscoder(**RUN)
    assert "shards" not in job.inputs
    assert [path.parent.name for path in job.inputs["models"]] == ["base", "tuned"]
    assert job.reads["stream"]["corpus"] == "nineteenth"


def test_sites_that_differ_are_not_compared_latent_by_latent():
    study = jobs(
        {
            "sites.main": ["middle", "last"],
            "dictionaries.tuned_last": {"model": "tuned", "corpus": "addresses", "site": "last"},
            "pairs.tuned.sites": ["middle"],
            "pairs.tuned.sites_b": ["middle", "last"],
            "pairs.tuned.dictionary_a": ["base_sae"],
            "pairs.tuned.dictionary_b": ["tuned_sae", "tuned_last"],
        }
    )
    crossed = {"features_a_on_b", "features_b_on_a"}
    assert crossed <= set(study.pair_features(**CELL).inputs)
    assert not crossed & set(study.pair_features("tuned", "middle", "last").inputs)


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


def test_files_of_the_users_are_inputs(tmp_path):
    assert files_at(None) == []
    assert files_at(str(tmp_path / "absent")) == []
    (tmp_path / "b").touch()
    (tmp_path / "a").touch()
    assert files_at(str(tmp_path)) == [tmp_path / "a", tmp_path / "b"]
    assert files_at(str(tmp_path / "a")) == [tmp_path / "a"]


@pytest.mark.parametrize("rule", [path.stem for path in sorted((ROOT / "workflow" / "scripts").glob("*.py"))])
def test_every_script_has_a_job_and_its_spec_names_no_path_below_the_results(rule):
    assert callable(getattr(Jobs, rule))
    wildcards = {
        "crosscoder": "tuned", "pair": "tuned", "site": "middle", "site_a": "middle", "site_b": "middle", "seed": "0",
        "model": {"fetch_model": "base", "derive_model": "tuned"}.get(rule, "base"), "corpus": "addresses",
        "tokenizer": "base", "tokenizer_a": "base", "tokenizer_b": "base", "shard": "0",
        "group": JOBS.study.group("middle"), "template_diff": next(iter(JOBS.study.template_diffs)),
        "dictionary": next(iter(JOBS.study.dictionaries)),
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
