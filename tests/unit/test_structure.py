"""The structure that ARCHITECTURE.md describes: what the checks of `make check` cannot hold."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from diptych import methods
from trees import ROOT

LIBRARY = ROOT / "workflow" / "diptych"
MODULES = sorted(LIBRARY.rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
TOOLS = {
    "import-linter",
    "mypy",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "snakefmt",
    "scipy-stubs",
    "types-pyyaml",
    "types-tqdm",
    "uv",
}
"""What the checks call or read by another name than an import."""
BY_NAME = {"snakemake-executor-plugin-slurm", "tensorboard", "gguf", *TOOLS}
"""What is used without an import: by Snakemake, torch, transformers, the checks."""


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras):
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {canonical(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in lines}


def imported(paths):
    """Distributions of the packages that some files import, our own and the standard library's left out."""
    roots = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                roots.add(node.module.split(".")[0])
    own = {"diptych", *(path.stem for path in (ROOT / "tests").iterdir()), *(path.stem for path in paths)}
    known = packages_distributions()
    return {canonical(known.get(root, [root])[0]) for root in roots - own - set(sys.stdlib_module_names)}


def locked(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {canonical(line.split("==")[0]) for line in lines if "==" in line and not line.startswith((" ", "#"))}


def test_what_the_library_imports_is_declared_and_what_is_declared_is_used():
    used = imported([*MODULES, *(ROOT / "workflow" / "scripts").glob("*.py")])
    assert used - declared("track") == set()
    assert declared("track", "slurm") - used - BY_NAME - {"snakemake"} == set()


def test_what_tests_and_benchmarks_import_is_declared_and_what_is_declared_is_used():
    paths = [path for folder in ("tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")]
    used = imported(paths)
    # The hooks of the site run in an environment of their own.
    site = {canonical(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in PYPROJECT["dependency-groups"]["docs"]}
    assert site - locked("docs/requirements.lock") == set()
    assert used - declared("dev", "track") - site == set()
    assert declared("dev") - declared() - used - BY_NAME == set()


def test_the_locks_hold_what_is_declared_and_a_study_installs_no_tool():
    assert declared("slurm") - locked("requirements.lock") == set()
    assert declared("dev") - locked("requirements-dev.lock") - locked("requirements.lock") == set()
    assert not {"mypy", "pytest", "ruff", "black", "snakefmt", "uv"} & locked("requirements.lock")


def test_nothing_lies_beside_the_packages_but_the_table_of_methods():
    assert {path.name for path in LIBRARY.glob("*.py")} == {"__init__.py", "methods.py"}
    assert all(path.read_bytes() == b"" for path in LIBRARY.rglob("__init__.py"))


def test_modules_have_at_most_400_lines():
    assert {path.relative_to(LIBRARY).as_posix(): n for path in MODULES if (n := lines(path)) > 400} == {}


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("folder", sorted(path.name for path in LIBRARY.iterdir() if (path / "__init__.py").is_file()))
def test_a_package_has_its_own_folder_of_tests(folder):
    assert list((ROOT / "tests" / "unit" / folder).glob("test_*.py"))


def test_functions_of_rules_are_in_one_short_file():
    rules = ROOT / "workflow" / "rules"
    assert lines(rules / "common.smk") < 100
    others = [path for path in rules.glob("*.smk") if path.name != "common.smk"]
    assert [path.name for path in others if re.search(r"^def |^class ", path.read_text(), re.MULTILINE)] == []


def test_rules_and_scripts_spell_no_path_of_the_results():
    """Every file of a study has one place: `config.layout`."""
    sources = [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk"), *(ROOT / "workflow" / "scripts").glob("*.py")]
    file_name = re.compile(r"""["'/][\w{}-]+\.(h5|tsv|csv|json|jsonl|html|png|svg|safetensors)["']""")
    assert {path.name for path in sources if file_name.search(path.read_text(encoding="utf-8"))} == set()


@pytest.mark.parametrize("method", methods.METHODS, ids=lambda method: method.name)
def test_a_method_is_a_package_with_its_parts(method):
    package = LIBRARY / Path(*method.package.split(".")[1:])
    assert list(package.rglob("stage.py"))
    assert (package / "section.py").is_file()
    assert (package / "candidates.py").is_file() or not method.proposes
