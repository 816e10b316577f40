import re

import pytest
import yaml

from diptych.planning import machines, text, write
from diptych.planning import plan as plans
from diptych.planning.cost import Cost
from diptych.planning.plan import Machine
from diptych.planning.quantity import quantity
from diptych.runtime.errors import DiptychError
from planned_studies import shipped, small
from trees import ROOT

LARGE = Machine(memory=1e15, disk=1e15)
STUDIES = sorted(path.name for path in (ROOT / "config" / "studies").glob("*.yaml"))


def test_a_study_that_fits_has_no_shortage():
    assert plans.make(small(), machines.named("l4")).shortages(LARGE) == []


@pytest.mark.parametrize("name", STUDIES)
def test_every_shipped_study_is_planned_without_its_models(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = plans.make(shipped(f"studies/{name}", "none"), machines.named("h200"))
    assert plan.disk > 0
    assert {stage.rule for stage in plan.stages} > {"fetch_model", "dump_activations", "build_report"}


def test_the_published_crosscoder_fits_an_h100_and_not_a_small_gpu():
    study = shipped("studies/crosscoder-gemma-2-2b.yaml", "none")
    assert plans.make(study, machines.named("h100")).shortages(LARGE) == []
    study.crosscoders["l1"] = study.crosscoders["l1"].model_copy(update={"n_latents": 131_072})
    (line,) = plans.make(study, machines.named("l4")).shortages(LARGE)[:1]
    assert re.match(r"train_crosscoder needs \S+ GB and the memory of one NVIDIA L4 24 GB is 24.0 GB; change", line)
    assert "crosscoders.l1.accumulate" in line


def test_too_little_memory_or_disk_names_the_key():
    plan = plans.make(shipped("config.yaml", "none"), machines.named("cpu"))
    lines = plan.shortages(Machine(memory=1e15, disk=1e9))
    assert lines == [
        "disk: 2.42 GB are needed, most of them for derive_model, and 1.00 GB are free; "
        "change models.planted.parent: a smaller model"
    ]
    lines = plan.shortages(Machine(memory=1e9, disk=1e15))
    assert any(line.startswith("dump_activations needs") and "activations.batch_tokens" in line for line in lines)


def test_hours_are_products_at_a_share_of_the_peak_then_start_and_disk():
    device = machines.named("h100")
    cost = Cost(half_flops=989e12, on_device=True, disk=machines.DISK_BANDWIDTH)
    assert plans._seconds(cost, device) == pytest.approx(machines.START_SECONDS + 1 / machines.SHARE + 1)
    bound = Cost(half_flops=1.0, traffic=3350e9, on_device=True, speedup=2)
    assert plans._seconds(bound, device) == pytest.approx(machines.START_SECONDS + 0.5 / machines.SHARE)


def test_a_gpu_holds_what_a_processor_has_in_its_memory():
    cost = Cost(memory=4e9, host=1e9, on_device=True, devices=2)
    assert plans._device_memory(cost, True).size == plans.CONTEXT + 2e9
    assert plans._device_memory(cost, False).size == 0
    on_cpu, beside = (plans.host_memory("gate_activations", cost, on_gpu).size for on_gpu in (False, True))
    assert on_cpu - beside == 4e9


def test_the_table_is_aligned_and_says_what_it_assumes():
    rendered = text.render(plans.make(small(), machines.named("a100")))
    table, assumptions = rendered.split("\n\n")
    assert len({len(line) for line in table.splitlines()}) == 1
    assert table.splitlines()[0].split()[:4] == ["stage", "jobs", "tokens", "FLOPs"]
    assert "40% of its peak" in assumptions
    assert "A100" in assumptions


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "-"),
        (7, "7"),
        (999, "999"),
        (40_960, "41.0 k"),
        (5_228_800_000, "5.23 G"),
        (999_999, "1.00 M"),
        (123e12, "123 T"),
    ],
)
def test_numbers_have_at_most_three_digits(number, shown):
    assert quantity(number) == shown


def test_the_command_prints_a_plan_and_later_files_win(tmp_path, capsys):
    study = small()
    config = study.model_dump(
        mode="json", include={"results", "models", "corpora", "sites", "pairs"}, exclude_unset=True
    )
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**config, "results": str(tmp_path)}))
    (tmp_path / "more.yaml").write_text("corpora: {text: {tokens: 128000}}")
    assert write.main([str(tmp_path / "study.yaml"), "--device", "l4"]) == 0
    assert "64.0 k" in capsys.readouterr().out
    assert write.main([str(tmp_path / "study.yaml"), str(tmp_path / "more.yaml"), "--device", "l4"]) == 0
    assert "128 k" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path, capsys):
    assert write.main([str(tmp_path / "none.yaml")]) == 1
    assert write.main([str(ROOT / "config" / "config.yaml"), "--device", "abacus"]) == 1
    missing, unknown = capsys.readouterr().err.splitlines()
    assert missing.endswith("No such file or directory; name a config file")
    assert unknown.startswith("DEVICE=abacus: no such device; use one of cpu, ")


def test_a_study_that_does_not_fit_is_an_error_after_its_plan(monkeypatch, capsys):
    monkeypatch.setattr(plans, "this_machine", lambda study: Machine(memory=1e8, disk=1e15))
    with pytest.raises(DiptychError, match=r"does not fit: .*fetch_model needs \d+ MB and the memory of this machine"):
        write.write(small(), "cpu")
    assert "build_report" in capsys.readouterr().out
