"""How the models of pairs are related, which pairs repeat one, and which students can be compared."""

import pytest
import yaml

from diptych.config import cells, loading
from diptych.config.layout import Layout
from diptych.config.relations import kind_of, relations
from trees import ROOT

STUDENT = {"kind": "distill", "parent": "base", "corpus": "text", "evaluate_on": "other"}
MODELS = {
    "base": {"kind": "random"},
    "elsewhere": {"kind": "random", "seed": 1},
    "tuned": {"kind": "finetune", "parent": "base", "corpus": "text", "evaluate_on": "other"},
    "kl": {**STUDENT, "loss": {"kl": 1}},
    "kl_again": {**STUDENT, "loss": {"kl": 1}, "seed": 1, "micro_batch": 2},
    "both": {**STUDENT, "loss": {"kl": 1, "jacobian": 2}},
    "short": {**STUDENT, "loss": {"kl": 1}, "layers": 1},
    "of_tuned": {**STUDENT, "parent": "tuned"},
    "redrawn": {"kind": "rerandomize", "parent": "kl"},
    "hub": {"kind": "hub", "id": "a/b", "revision": "main"},
}
LOCAL = {"tokens": 100, "sources": {"a": {"kind": "local", "paths": ["x.txt"]}}}


def study(*compared, crosscoders=None, **pairs):
    """A study of base with each of these models, with crosscoders of all or of some."""
    pairs |= {model: {"a": "base", "b": model, "corpus": "text"} for model in compared}
    with_crosscoder = pairs if crosscoders is None else crosscoders
    return loading.load(
        {
            "models": MODELS,
            "corpora": {"text": LOCAL, "other": {**LOCAL, "tokens": 50}},
            "pairs": pairs,
            "crosscoders": {
                name: {"models": [pairs[name]["a"], pairs[name]["b"]], "corpus": "text", "n_latents": 64, "k": 4}
                for name in with_crosscoder
            },
        }
    )


@pytest.mark.parametrize(
    ("b", "kind"),
    [
        ("base", "identical"), ("tuned", "fine-tuned"), ("kl", "distilled"), ("redrawn", "random"),
        ("elsewhere", "random"), ("hub", "other"), ("of_tuned", "distilled"),
    ],
)  # fmt: skip
def test_a_relation_is_read_off_how_b_was_made(b, kind):
    assert kind_of(study(b), b) == kind


def test_a_pair_can_say_how_its_models_are_related():
    of = study(x={"a": "base", "b": "hub", "corpus": "text", "relation": "scale"})
    assert kind_of(of, "x") == "scale"


def test_names_orders_and_repeats():
    found = relations(
        study(
            "redrawn",
            "both",
            "kl",
            "kl_again",
            "short",
            "tuned",
            "base",
            crosscoders=["kl", "both", "short", "tuned", "base", "redrawn"],
        )
    )
    assert [(relation.name, relation.pairs) for relation in found] == [
        ("identical", ("base",)),
        ("fine-tuned", ("tuned",)),
        ("distilled by KL and the Jacobian loss", ("both",)),
        # A repeat needs no crosscoder of its own.
        ("distilled by KL: kl", ("kl", "kl_again")),
        ("distilled by KL: short", ("short",)),
        ("random", ("redrawn",)),
    ]
    budgets = {relation.pairs[0]: relation.budget for relation in found}
    assert budgets["kl"] == budgets["both"] != budgets["short"]
    assert budgets["tuned"] == budgets["base"] == ""


def test_a_single_relation_has_no_table():
    of = study("tuned")
    assert relations(of) == []
    assert "relations" not in cells.report_inputs(Layout(of))
    assert relations(study("tuned", "base", crosscoders=["tuned"])) == []


def test_the_shipped_study_asks_what_distillation_keeps():
    of = loading.load(yaml.safe_load((ROOT / "config" / "studies" / "relations.yaml").read_text()))
    found = {relation.name: relation for relation in relations(of)}
    students = [found[f"distilled by {name}"] for name in ("KL", "the Jacobian loss", "KL and the Jacobian loss")]
    assert len({student.budget for student in students}) == 1
    assert [len(student.pairs) for student in students] == [2, 2, 1]
    assert {relation.kind for relation in found.values()} == {"identical", "fine-tuned", "scale", "distilled", "random"}
    described = {relation["name"]: relation for relation in cells.related_pairs(Layout(of))}
    for name in found:
        first = described[name]["pairs"][0]
        assert [site["site"] for site in first["sites"]] == ["first", "middle", "last"]
        runs = [run for site in first["sites"] for run in site["runs"]]
        assert len(runs) == (3 if name == "identical" else 6)
        assert all("ceiling" in run for run in runs) == (name != "identical")
