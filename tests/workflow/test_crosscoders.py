"""Crosscoders as Snakemake sees them: sweeps, ceilings, several processes, imports and exports."""

import pytest

pytestmark = pytest.mark.workflow


def jobs_of(plan, rule):
    """Crosscoder and seed of every job of a rule in a plan."""
    found = [dict(job.wildcards) for job in plan if job.rule == rule]
    return sorted((job["crosscoder"], job.get("seed")) for job in found)


def test_a_sweep_and_a_ceiling_are_jobs_of_their_own(blank):
    config = blank.config()
    config["crosscoders"]["tuned"] |= {"sweep": {"k": [4, 8]}, "ceiling": True, "seeds": [0, 1]}
    blank.write_config(config)
    swept = {"tuned.0", "tuned.0.ceiling", "tuned.1", "tuned.1.ceiling"}
    plan = blank.plan()
    trained = jobs_of(plan, "train_crosscoder")
    assert {name for name, _ in trained} == swept | {"planted", "control"}
    assert ("tuned.1.ceiling", "1") in trained
    assert {name for name, _ in jobs_of(plan, "compare_seeds")} == {"tuned.0", "tuned.1"}
    described = {name for name, _ in jobs_of(plan, "describe_latents")}
    assert swept < described
    assert not [name for name, _ in jobs_of(plan, "evaluate_crosscoder") if "ceiling" in name]


def test_weights_from_elsewhere_are_imported_and_not_trained(blank):
    config = blank.config()
    config["crosscoders"]["tuned"] |= {"weights": "cc.safetensors", "scales": [0.3, 0.2], "seeds": [0]}
    blank.write_config(config)
    (blank.path / "cc.safetensors").touch()
    plan = blank.plan()
    assert jobs_of(plan, "import_crosscoder") == [("tuned", "0")]
    assert ("tuned", "0") not in jobs_of(plan, "train_crosscoder")


def test_several_processes_ask_for_as_many_gpus(blank):
    config = blank.config()
    config["crosscoders"]["tuned"]["processes"] = 2
    blank.write_config(config)
    text = blank.snakemake("--dry-run", "results/test/crosscoders/tuned/last/seed-0/weights.h5").stdout
    block = text[text.index("rule train_crosscoder") :]
    assert "gpu=2" in block[: block.index("\n\n")]
    assert "processes=2" in block[: block.index("\n\n")]


def test_crosscoders_of_three_models_reach_the_report(blank):
    config = blank.config()
    config["crosscoders"]["three"] = {**config["crosscoders"]["planted"], "models": ["base", "planted", "tuned"]}
    blank.write_config(config)
    assert ("three", "0") in jobs_of(blank.plan(), "evaluate_crosscoder")
