"""The weights among the findings of a study, and the memory that comparing them takes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diptych.candidates.known import Edit
from diptych.candidates.proposer import Clause
from diptych.derive import plant
from diptych.findings import stage as findings
from diptych.text import tokens as text_tokens
from diptych.text.corpora import stage as corpora
from diptych.weights import candidates, stage
from random_texts import random_texts, write_tokens
from tiny_models import make_model, make_texts
from weight_edits import SPEC, edited, in_dtype, low_rank

LIBRARY = Path(__file__).parents[3] / "workflow"
CODE = r"""
import re, sys
import torch
from diptych.weights import stage
torch.set_num_threads(1)
a, b, out = sys.argv[1:]
stage.compare(a, b, f"{out}.h5", table=f"{out}.tsv", spec={}, top=1)
status = open("/proc/self/status").read()  # getrusage would count the process that this one was forked from
print(1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1]))
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Answers and controls of pairs as a whole: planted, control, rounded, and of two architectures."""
    place = tmp_path_factory.mktemp("study")
    base = make_model(place / "base")
    texts = make_texts(place / "texts", "old", 10)
    corpora.fetch(place / "corpus", spec=SPEC, sources={"old": {"kind": "local", "paths": [str(texts / "*.txt")]}})
    tokens = place / "tokens.h5"
    text_tokens.prepare(place / "corpus", base, tokens, spec=SPEC, tokens=1000, sequence_length=64)
    concept = write_tokens(place / "concept.h5", base, random_texts(120, 0))
    plant.plant(base, concept, place / "planted", spec=SPEC, layer=1, concept=["Congress"], size=0.5)
    in_dtype(base, place / "rounded", torch.bfloat16)
    make_model(place / "other", "gpt2")
    pairs = []
    for name, b, role in (
        ("planted", "planted", "planted"), ("control", "base", "control"), ("rounded", "rounded", "compared"),
        ("other", "other", "compared"),
    ):  # fmt: skip
        files = {"tokens_a": str(tokens), "tokens_b": str(tokens), "weights": str(place / f"{name}.h5")}
        stage.compare(base, place / b, files["weights"], table=place / f"{name}.tsv", spec=SPEC)
        edit = {}
        if role == "planted":
            files["truth"] = str(place / "planted" / "truth.h5")
            made = {"kind": "plant", "settings": {"layer": 1, "concept": ["Congress"], "size": 0.5}}
            where = {"directory": str(base), "tokens": str(concept), "truth": files["truth"]}
            edit = {"edit": {**made, **where}}
        pairs.append(
            {
                "name": name,
                "role": role,
                "site_a": "",
                "site_b": "",
                "files": files,
                "a": "base",
                "b": b,
                "corpus": "text",
                **edit,
            }
        )
    findings.collect(pairs, place / "findings.h5", place / "findings.tsv", spec=SPEC)
    return findings.read(place / "findings.h5")


def test_the_edited_tensor_is_named_with_its_rank(study):
    (row,) = [dict(zip(study.edits, values, strict=True)) for values in zip(*study.edits.values(), strict=True)]
    assert (row["pair"], row["method"], row["truth"]) == ("planted", "weights", "the edited tensor")
    assert (row["status"], row["rank"], row["average_precision"]) == ("finding", 1, 1.0)
    assert (row["truths"], row["found"], row["reported"], row["false"]) == (1, 1, 1, 0)
    assert (row["rank_made"], row["rank_seen"]) == (1.0, 1.0)


def test_the_kinds_of_matrices_that_adapters_change_are_known(tmp_path):
    """Adapters on the matrices of the blocks; what else changed, the embedding, is none of theirs."""
    base = make_model(tmp_path / "base")

    def adapt(tensors):
        return {
            name: low_rank(tensor, rank=2, seed=k) if "_proj" in name or "embed" in name else tensor
            for k, (name, tensor) in enumerate(tensors.items())
        }

    files = {"weights": str(tmp_path / "w.h5")}
    stage.compare(base, edited(base, tmp_path / "b", adapt), files["weights"], table=tmp_path / "w.tsv", spec=SPEC)
    proposer = candidates.PROPOSER
    proposed = proposer.candidates(files)
    edit = Edit("finetune", {"corpus": "old", "method": "lora", "lora_rank": 2}, str(base), "", "", "")
    found = proposer.known(files, edit, proposed)
    assert {name.rpartition(".")[2] for name in found.names} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert {name: len(each) for name, each in zip((c.id for c in proposed), found.shown, strict=True)} == {
        each.id: int("embed" not in each.id) for each in proposed
    }
    assert found.rank == (2, 2.0)
    whole = Edit("finetune", {"corpus": "old", "method": "full"}, str(base), "", "", "")
    assert proposer.known(files, whole, proposed).blind.startswith("all weights were trained")


def test_what_a_study_says_of_the_weights(study):
    answers = {answer["pair"]: answer for answer in study.answers}
    assert {name: answer["status"] for name, answer in answers.items()} == {
        "planted": "recovered", "control": "as_it_must", "rounded": "none", "other": "untested",
    }  # fmt: skip
    assert answers["planted"]["recovery"]["cosine"] > 0.99
    assert "different architectures, llama and gpt2" in answers["other"]["text"]
    assert study.table["id"].tolist() == ["mlp.down_proj: block 1 alone, rank 1"]
    assert study.table["kind"].tolist() == ["weights"]
    assert study.control_holds
    (control,) = study.controls
    clauses = [Clause(**clause) for clause in control["clauses"]]
    assert [(clause.name, clause.holds) for clause in clauses if clause.holds is not None] == [
        ("the weights are equal", True),
        ("no finding", True),
    ]


def peak(a: Path, b: Path, out: Path) -> int:
    """Peak resident memory in bytes of a process that compares two models."""
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(a), str(b), str(out)],
        env={"PYTHONPATH": str(LIBRARY), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(result.stdout.split()[-1])


def deepened(out: Path, layers: int) -> Path:
    """A model of so many blocks, each of 8 MiB: one matrix beside the tiny ones."""
    make_model(out, layers=layers)
    tensors = load_file(out / "model.safetensors")
    for layer in range(layers):
        tensors[f"model.layers.{layer}.mlp.large.weight"] = torch.full((64, 2**15), float(layer + 1))
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def test_memory_does_not_grow_with_the_number_of_tensors(tmp_path):
    """Of 24 matrices of 8 MiB in either model two are in memory at a time: no more than of 4."""
    peaks = {}
    for layers in (4, 24):
        a = deepened(tmp_path / f"a{layers}", layers)
        b = tmp_path / f"b{layers}"
        deepened(b, layers)
        tensors = load_file(b / "model.safetensors")
        save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, b / "model.safetensors", {"format": "pt"})
        peaks[layers] = peak(a, b, tmp_path / f"out{layers}")
    size = 64 * 2**15 * 4
    assert peaks[24] - peaks[4] < 4 * size  # of 40 such matrices more
