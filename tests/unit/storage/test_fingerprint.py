import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from diptych.storage import fingerprint, syntax

WORKFLOW = Path(fingerprint.__file__).parents[2]
SCRIPTS = sorted((WORKFLOW / "scripts").glob("*.py"))
STAGES = [script for script in SCRIPTS if script.stem != "plan"]
"""The scripts that write artifacts; the plan prints what it says of a whole study."""


def digest(path, text):
    path.write_text(textwrap.dedent(text))
    fingerprint.code_hash.cache_clear()
    syntax.read.cache_clear()
    return fingerprint.code_hash((path,))


def test_comments_layout_and_docstrings_do_not_count_but_statements_do(tmp_path):
    path = tmp_path / "script.py"
    base = digest(path, '"""Doc."""\ndef f(x):\n    """Doc."""\n    return x + 1\n')
    assert digest(path, "# note\n\ndef f( x ):\n    '''Other.'''\n\n    return (x+1)\n") == base
    assert digest(path, "def f(x):\n    return x + 2\n") != base
    assert digest(path, 'def f(x):\n    return x + 1\nNAME = "not a docstring"\n') != base


def test_modules_are_followed_and_the_config_is_left_out():
    modules = {path.name for path in fingerprint.first_party(WORKFLOW / "scripts" / "fit_linear_map.py")}
    assert {"fit_linear_map.py", "stage.py", "moments.py", "rows.py", "artifacts.py", "__init__.py"} <= modules
    assert not {"study.py", "strict.py", "fingerprint.py"} & modules


def test_pictures_of_a_template_diff_need_no_other_section_of_the_report():
    modules = fingerprint.first_party(WORKFLOW / "scripts" / "draw_template_diff.py")
    sections = {path.parent.name for path in modules if path.name == "section.py"}
    assert not sections
    assert not any(path.parent.name == "report" for path in modules)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_logging_and_tidying_up_re_run_nothing(script):
    assert not {"logs.py", "unfinished.py"} & {path.name for path in fingerprint.first_party(script)}


@pytest.mark.parametrize("script", STAGES, ids=lambda path: path.stem)
def test_stages_never_import_the_config(script):
    for path in fingerprint.first_party(script):
        outside = ("diptych.config", "diptych.storage.fingerprint", "diptych.storage.syntax")
        assert not [name for name in syntax.read(path).imports if name.startswith(outside)], path


def test_relative_imports_are_refused(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("from . import x\n")
    with pytest.raises(ValueError, match="absolute"):
        syntax.read(path)


@pytest.fixture
def cache_path(tmp_path, monkeypatch):
    monkeypatch.setattr(syntax, "_CACHE", syntax._Cache())
    yield tmp_path / "cache_path" / "code.json"
    syntax.read.cache_clear()


def test_parsed_code_is_cached_by_content(cache_path, tmp_path, monkeypatch):
    path = tmp_path / "script.py"
    path.write_text("import json\nx = 1\n")
    syntax.read.cache_clear()
    syntax.use_cache(cache_path)
    code = syntax.read(path)
    syntax.save_cache()
    assert code.imports == {"json"}
    syntax.read.cache_clear()
    syntax.use_cache(cache_path)
    with monkeypatch.context() as patch:
        patch.setattr(syntax.ast, "parse", None)
        assert syntax.read(path) == code
    path.write_text("import json\nx = 2\n")
    syntax.read.cache_clear()
    assert syntax.read(path).sha256 != code.sha256


@pytest.mark.parametrize("content", ["", "{", '{"version": 0, "files": {}}', "[]"])
def test_an_unreadable_cache_is_replaced(cache_path, tmp_path, content):
    cache_path.parent.mkdir()
    cache_path.write_text(content)
    syntax.use_cache(cache_path)
    path = tmp_path / "script.py"
    path.write_text("import json\n")
    syntax.read.cache_clear()
    assert syntax.read(path).imports == {"json"}
    syntax.save_cache()
    assert "json" in cache_path.read_text()


def test_versions_carry_no_local_part():
    spec = fingerprint.spec(WORKFLOW / "scripts" / "train_crosscoder.py", {"settings": {"b": 1, "a": (1, 2)}})
    assert list(spec["settings"]) == ["a", "b"]
    assert spec["settings"]["a"] == [1, 2]
    assert spec["packages"]["torch"].count("+") == 0
    assert "tqdm" not in spec["packages"]


HEAVY = {"torch", "transformers", "transformer_lens", "sae_lens", "scipy.stats", "plotly", "pandas"}
BUDGET = {
    "diptych.config.study": HEAVY,
    "diptych.config.checks": HEAVY,
    "diptych.storage.fingerprint": HEAVY,
    "diptych.config.documentation.write": HEAVY,
    "diptych.activations.rows": HEAVY,
    "diptych.text.corpora": HEAVY,
    "diptych.models.sites": HEAVY,
    "diptych.activations.gates": HEAVY - {"scipy.stats"},
    "diptych.linear_map.stage": {"torch", "transformers", "transformer_lens", "sae_lens", "plotly"},
    "diptych.correlation.stage": {"torch", "transformers", "transformer_lens", "sae_lens", "plotly"},
    "diptych.pairing.stage": {"torch", "transformers", "transformer_lens", "sae_lens", "plotly"},
    "diptych.template_diff.pictures.page": HEAVY - {"plotly"},
    "diptych.report.stage": {"torch", "transformers", "transformer_lens", "sae_lens"},
    "diptych.activations.dump": {"transformer_lens", "sae_lens"},
    "diptych.derive.finetune": {"transformer_lens", "sae_lens"},
    "diptych.derive.plant": {"transformer_lens", "sae_lens"},
    "diptych.findings.stage": {"torch", "transformers", "transformer_lens", "sae_lens", "plotly"},
    "diptych.dictionaries.training": {"transformer_lens", "sae_lens"},
    "diptych.dictionaries.sae": {"transformer_lens", "sae_lens", "transformers"},
    "diptych.crosscoder.training.stage": {"transformer_lens", "sae_lens", "transformers"},
    "diptych.similarity.feature_maps": {"torch", "transformers", "transformer_lens", "sae_lens", "plotly", "umap"},
    "diptych.dictionaries.published.releases": HEAVY,
    "diptych.dictionaries.published.sources": {"transformer_lens", "sae_lens", "transformers", "huggingface_hub"},
    "diptych.similarity.neurons": {"torch", "transformers", "transformer_lens", "sae_lens", "plotly"},
    "diptych.derive.trigger": {"transformer_lens", "sae_lens"},
}


@pytest.mark.parametrize("module", BUDGET)
def test_import_budget(module):
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(WORKFLOW)}
    )
    assert not BUDGET[module] & set(run.stdout.split())
