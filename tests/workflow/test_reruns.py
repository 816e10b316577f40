"""What runs again when: the re-run contract of the design, key by key."""

import copy
import re
import shutil
import subprocess
import sys
import time

import pytest
import yaml

from diptych.config import loading
from diptych.config.documentation import write
from diptych.config.documentation.reruns import RERUNS
from diptych.config.jobs import Jobs
from diptych.storage import fingerprint
from trees import Tree

pytestmark = pytest.mark.workflow

ROOT = fingerprint.LIBRARY.parents[1]

# A new value for every key that may change a result, as a path into the test study.
CHANGES = yaml.safe_load((ROOT / "tests" / "workflow" / "changes.yaml").read_text())
# What the test study has none of, and the jobs of it.
UNUSED = yaml.safe_load((ROOT / "tests" / "workflow" / "unused.yaml").read_text())

CROSSCODER = {"models": ["base", "base"], "corpus": "both", "site": "last", "k": 4}
# Keys that change which jobs there are, not what a job does: where each is set, to what, and a job that comes of it.
STRUCTURAL = {
    ("Pair", "sites"): (
        "pairs/tuned/sites", ["last", "first"],
        ("fit_linear_map", {"pair": "tuned", "site_a": "first", "site_b": "first"}),
    ),
    ("Pair", "sites_b"): (
        "pairs/across/sites_b", ["first", "last"],
        ("fit_linear_map", {"pair": "across", "site_a": "first", "site_b": "last"}),
    ),
    ("Crosscoder", "seeds"): (
        "crosscoders/planted/seeds", [0, 1],
        ("compare_seeds", {"crosscoder": "planted", "site": "last"}),
    ),
    ("Crosscoder", "ceiling"): (
        "crosscoders/planted/ceiling", True,
        ("train_crosscoder", {"crosscoder": "planted.ceiling", "site": "last", "seed": "0"}),
    ),
    ("Similarity", "map"): ("similarity/map", True, ("map_spaces", {})),
    ("Similarity", "neurons"): (
        "similarity/neurons", True,
        ("dump_activations", {"corpus": "both", "model": "base", "group": "neurons", "shard": "0"}),
    ),
    ("Steering", "pairs"): (
        "steering/pairs", ["control"],
        ("steer_features", {"pair": "control", "site_a": "last", "site_b": "last"}),
    ),
}  # fmt: skip
SWEPT = {
    "objective": ["topk", "batchtopk"], "n_latents": [64, 32], "k": [8, 4], "penalty": [1, 2],
    "learning_rate": [1e-3, 1e-4], "steps": [120, 60],
}  # fmt: skip
STRUCTURAL |= {
    ("Sweep", key): (
        f"crosscoders/swept_{key}",
        {**CROSSCODER, "objective": "l1" if key == "penalty" else "batchtopk", "sweep": {key: values}},
        ("train_crosscoder", {"crosscoder": f"swept_{key}.1", "site": "last", "seed": "0"}),
    )
    for key, values in SWEPT.items()
}

# What these read describes the whole study, and changes with whatever names a file of it.
OVER_ALL_PAIRS = {"collect_similarity", "map_spaces", "collect_findings", "build_report"}


@pytest.fixture(scope="session")
def plan(fresh):
    """(rule, wildcards) of every job of the test study."""
    return [(job.rule, dict(job.wildcards)) for job in Tree(fresh).plan() if job.rule != "all"]


@pytest.fixture(scope="session")
def jobs(plan):
    """(rule, wildcards) of every job of the test study, and of what nothing in it needs."""
    return plan + [job for entry in UNUSED["jobs"] for job in entry.items()]


@pytest.fixture
def config(fresh):
    """The test study, and what nothing in it needs."""
    study = Tree(fresh).config()
    unused = UNUSED["config"]
    return study | {key: study[key] | made if isinstance(made, dict) else made for key, made in unused.items()}


def read_by(rule, job):
    """What a job reads; of the table of relations, their names, for it too describes the whole study."""
    if rule == "collect_relations":
        return [(relation["name"], relation["kind"]) for relation in job.reads["relations"]]
    return {} if rule in OVER_ALL_PAIRS else job.reads


def specs(config, jobs):
    """The spec's part that the config decides, of every job that the changed config still has."""
    study = Jobs(loading.load(config))
    found = {}
    for rule, wildcards in jobs:
        job = study.job(rule, wildcards)
        found[rule, tuple(sorted(wildcards.items()))] = {
            "job": wildcards,
            "reads": read_by(rule, job),
            "settings": job.settings,
            "files": [str(file) for file in job.files],
        }
    return found


def change(config, path, value):
    config = copy.deepcopy(config)
    *way, last = path.split("/")
    here = config
    for key in way:
        here = here[int(key)] if isinstance(here, list) else here.setdefault(key, {})
    here[last] = value
    return config


def test_no_two_jobs_of_a_rule_have_equal_specs(config, jobs):
    made = specs(config, jobs)
    seen = {}
    for (rule, wildcards), spec in made.items():
        key = (rule, repr(fingerprint._sorted(spec)))
        assert key not in seen, f"{rule}: {wildcards} and {seen[key]}"
        seen[key] = wildcards
    assert len(seen) == len(jobs)


@pytest.mark.parametrize("path", CHANGES)
def test_a_key_runs_its_rule_again(config, jobs, path):
    rule, value = CHANGES[path]["rule"], CHANGES[path]["value"]
    if without := CHANGES[path].get("without"):
        del config[without], config["published"]
        jobs = [(name, job) for name, job in jobs if without.removesuffix("s") not in job]
    before, after = specs(config, jobs), specs(change(config, path, value), jobs)
    changed = {name for (name, _), spec in before.items() if after[(name, _)] != spec}
    assert changed == ({rule} if isinstance(rule, str) else set(rule or []))


def test_every_key_is_in_the_table():
    classes = [cls for _, cls in write._sections()]
    keys = {
        (cls.__name__, name)
        for cls in classes
        for name, field in cls.model_fields.items()
        if not write._section_classes(field.annotation, name)
    }
    resulting = {key for key in keys if RERUNS.get(key, RERUNS.get((key[0], "*")))}
    tested = {tuple(entry["key"].split(".")) for entry in CHANGES.values()}
    # Fields by which a class is chosen have no other value.
    free = {key for key in resulting if key[1] == "kind"}
    assert resulting - tested - free == set(STRUCTURAL)
    for path, entry in CHANGES.items():
        cls, name = entry["key"].split(".")
        declared = RERUNS.get((cls, name), RERUNS.get((cls, "*"))) or None
        listed = entry["rule"] if isinstance(entry["rule"], list) else [entry["rule"]]
        assert declared in listed, path


# --- with Snakemake itself ---


def test_keys_that_decide_which_jobs_there_are(blank, plan):
    """All in one dry run: each stands on a part of the study of its own."""
    config = blank.config()
    config["sites"]["neurons"] = ["last.mlp.hook_post", "first.mlp.hook_post"]
    for path, value, (rule, job) in STRUCTURAL.values():
        assert (rule, job) not in plan, path
        config = change(config, path, value)
    blank.write_config(config)
    changed = [(job.rule, dict(job.wildcards)) for job in blank.plan()]
    assert [path for path, _, job in STRUCTURAL.values() if job not in changed] == []
    assert "planted" not in [job["pair"] for rule, job in changed if rule == "steer_features"]


def test_a_second_run_does_nothing(done):
    assert "Nothing to be done" in done.snakemake().stderr + done.snakemake().stdout


def test_touching_files_does_nothing(done):
    for path in [*done.path.rglob("*.py"), *done.path.rglob("*.smk"), *done.path.rglob("*.yaml")]:
        path.touch()
    (done.path / "results" / "test" / "tokens" / "both" / "base.h5").touch()
    assert done.rules() == set()


def test_comments_key_order_and_how_it_runs_do_nothing(done):
    config = done.config()
    done.write_config({**dict(reversed(config.items())), "device": "auto"})
    done.edit("workflow/diptych/linear_map/stage.py", "\n\n\ndef fit(", "\n\n# A remark.\n\n\ndef fit(")
    assert done.rules() == set()


def test_a_moved_directory_does_nothing(done, tmp_path):
    shutil.move(done.path, tmp_path / "elsewhere")
    assert Tree(tmp_path / "elsewhere").rules() == set()


@pytest.mark.parametrize(
    ("path", "value", "rules", "first"),
    [
        ("linear_map/bootstrap", 77, "fit_linear_map", None),
        ("models/tuned/steps", 9, "derive_model", "tuned"),
        ("pairs/tuned", {"a": "tuned", "b": "base", "corpus": "both", "sites": ["last"]}, "fit_linear_map", "tuned"),
        ("crosscoders/tuned/seeds", [0, 1, 2], "train_crosscoder", "tuned"),
        ("pairs/tuned/sites", ["last", "first"], "fit_linear_map", "first"),
        ("template_diffs/tuned/flips", 77, "diff_template_tokens", "tuned"),
        ("findings/q", 0.01, "collect_findings", None),
        ("report/contexts", 3, "build_report", None),
    ],
)  # fmt: skip
def test_a_change_runs_its_stage_and_what_follows(done, path, value, rules, first):
    done.write_config(change(done.config(), path, value))
    plan = done.plan()
    starts = {job.rule for job in plan if "Params" in job.reason or "Missing" in job.reason}
    assert rules in starts
    assert not {"fetch_model", "fetch_corpus", "prepare_tokens"} & {job.rule for job in plan}
    if first:
        mine = [job for job in plan if job.rule == rules]
        aliases = (first, f"{first}.1")  # the second: the same with the dictionary's second seed
        assert all(set(aliases) & set(dict(job.wildcards).values()) for job in mine)


STATEMENT = '\n\nCHANGED = "a statement"\n'


@pytest.mark.parametrize("file", ["workflow/diptych/pairing/stage.py", "workflow/scripts/pair_features.py"])
def test_a_statement_runs_exactly_the_stages_that_import_it(done, file):
    path = done.path / file
    path.write_text(path.read_text() + STATEMENT)
    importing = {script.stem for script, modules in first_party(done).items() if path.resolve() in modules}
    plan = done.plan()
    starts = {job.rule for job in plan if "Params" in job.reason}
    # Snakemake does not look further into a job that has to run because its input does.
    behind = {job.rule for job in plan if "updated by another job" in job.reason}
    assert starts <= importing <= starts | behind
    assert "pair_features" in starts
    assert "fit_linear_map" not in starts


def first_party(tree):
    """The files of this library that each script of a tree imports."""
    code = (
        "from pathlib import Path; from diptych.storage import fingerprint\n"
        "for path in Path('workflow/scripts').glob('*.py'): print(path, *fingerprint.first_party(path))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tree.path,
        env={"PYTHONPATH": str(tree.path / "workflow")},
    )  # fmt: skip
    lines = [[(tree.path / name).resolve() for name in line.split()] for line in run.stdout.splitlines()]
    return {script: set(modules) for script, *modules in lines}


def test_a_docstring_does_nothing(done):
    path = done.path / "workflow" / "diptych" / "pairing" / "stage.py"
    text = path.read_text()
    path.write_text(re.sub(r'^"""', '"""Reworded. ', text, count=1))
    assert done.rules() == set()


def test_same_inputs_give_the_same_bytes(done, finished):
    for place in ("pairs/planted", "template_diffs/tuned"):
        shutil.rmtree(done.path / "results" / "test" / place)
    (done.path / "results" / "test" / "report" / "index.html").unlink()
    time.sleep(1.1)  # a clock of whole seconds inside a file would show
    done.snakemake()
    template = [f"template_diffs/tuned/{name}" for name in (
        "template_diff.h5", "gains.csv", "targets.csv", "figures.html", "scatter.png", "scatter.svg", "volcano.png",
        "volcano.svg",
    )]  # fmt: skip
    maps = ["pairs/planted/last--last/linear_map.h5", "pairs/planted/last--last/pairing.h5"]
    for name in [*maps, *template, "report/index.html"]:
        again, before = (place / "results" / "test" / name for place in (done.path, finished))
        assert again.read_bytes() == before.read_bytes(), name
