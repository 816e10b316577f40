"""The page of what every stage took."""

import json

from diptych.report import costs


def account(folder, name, **figures):
    path = folder / f"{name}.process.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"s": 1.0, "processor_s": 1.0, "children_s": 0.0, "peak_memory_mb": 100.0, **figures}))


def test_jobs_of_a_rule_are_added_up_and_the_largest_memory_counts(tmp_path):
    account(tmp_path, "dump_activations/web/base", s=10.0, processor_s=30.0, peak_memory_mb=2048.0)
    account(tmp_path, "dump_activations/web/tuned", s=20.0, processor_s=15.0, peak_memory_mb=512.0)
    account(tmp_path, "fit_linear_map/pair", s=4.0, processor_s=75.0)
    (tmp_path / "dump_activations" / "web" / "base.jsonl").write_text('{"s": 99}')
    first, second = costs.read(tmp_path)
    assert first == costs.StageCost("fit_linear_map", 1, 4.0, 75.0, 100.0)
    assert second == costs.StageCost("dump_activations", 2, 30.0, 45.0, 2048.0)
    costs.write(tmp_path, tmp_path / "index.html", report="../report")
    html = (tmp_path / "index.html").read_text("utf-8")
    assert "3 jobs took 2.0 minutes of processor time, most of it fit_linear_map (62 %)" in html
    assert "at most 2.0 GiB of memory in one job" in html
    assert 'src="../report/plotly.js"' in html
    assert 'href="../report/index.html"' in html


def test_a_study_without_accounts_says_so(tmp_path):
    costs.write(tmp_path, tmp_path / "index.html", report="../report")
    assert "No job of this study has left an account." in (tmp_path / "index.html").read_text("utf-8")
