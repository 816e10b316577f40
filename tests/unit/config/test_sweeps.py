"""Expansion of sweeps and ceilings of the config: settings and aliases of the crosscoders."""

import pytest

from diptych.config import loading
from diptych.config.jobs import Jobs
from diptych.config.sections.crosscoders import Crosscoder, Sweep
from diptych.config.sections.strict import ConfigError
from diptych.config.sweeps import expand

SECTION = {"models": ["base", "tuned"], "corpus": "text"}


def expanded(**settings):
    return expand({"x": Crosscoder.model_validate({**SECTION, **settings})})


def test_without_a_sweep_a_crosscoder_is_unchanged():
    assert list(expanded()) == ["x"]


def test_every_combination_is_named_by_the_positions_of_its_values():
    crosscoders = expanded(sweep={"k": [16, 32], "n_latents": [256, 512]})
    assert {name: (crosscoder.n_latents, crosscoder.k) for name, crosscoder in crosscoders.items()} == {
        "x.0.0": (256, 16), "x.0.1": (256, 32), "x.1.0": (512, 16), "x.1.1": (512, 32),
    }  # fmt: skip
    assert all(crosscoder.sweep == Sweep() for crosscoder in crosscoders.values())


def test_a_value_added_at_the_end_leaves_the_others_alone():
    before = expanded(sweep={"k": [16, 32], "n_latents": [256]})
    after = expanded(sweep={"k": [16, 32, 64], "n_latents": [256, 512]})
    assert {name: after[name] for name in before} == before


def test_an_objective_is_not_trained_twice_for_a_key_that_it_does_not_use():
    crosscoders = expanded(sweep={"objective": ["batchtopk", "l1"], "k": [16, 32], "penalty": [1, 2]})
    assert {name: (variant.objective, variant.k, variant.penalty) for name, variant in crosscoders.items()} == {
        "x.0.0.0": ("batchtopk", 16, 1.0), "x.0.1.0": ("batchtopk", 32, 1.0),
        "x.1.0.0": ("l1", 16, 1.0), "x.1.0.1": ("l1", 16, 2.0),
    }  # fmt: skip


def test_a_ceiling_is_the_first_model_with_itself_from_independent_values():
    crosscoders = expanded(ceiling=True, sweep={"k": [16, 32]}, steps=77)
    assert list(crosscoders) == ["x.0", "x.0.ceiling", "x.1", "x.1.ceiling"]
    ceiling = crosscoders["x.1.ceiling"]
    assert (ceiling.models, ceiling.k, ceiling.steps) == (("base", "base"), 32, 77)
    assert ceiling.independent
    assert not crosscoders["x.1"].independent


def test_crosscoders_that_differ_in_the_other_model_share_a_ceiling():
    first = Crosscoder.model_validate({**SECTION, "ceiling": True})
    others = {
        "y": first.model_copy(update={"models": ("base", "other")}),
        "z": first.model_copy(update={"models": ("base", "other"), "k": 7}),
        "w": first.model_copy(update={"models": ("other", "base")}),
    }
    assert list(expand({"x": first, **others})) == ["x", "x.ceiling", "y", "z", "z.ceiling", "w", "w.ceiling"]


def test_a_duplicate_alias_is_one_clear_error():
    crosscoder = Crosscoder.model_validate({**SECTION, "ceiling": True})
    with pytest.raises(ConfigError, match=r"crosscoders\.x\.ceiling: .*rename"):
        expand({"x": crosscoder, "x.ceiling": Crosscoder.model_validate(SECTION)})


def test_a_difference_has_no_ceiling():
    with pytest.raises(ConfigError, match=r"crosscoders\.x\.ceiling: .* is 0"):
        expanded(objective="diff", ceiling=True)
    crosscoders = expanded(sweep={"objective": ["batchtopk", "diff"]}, ceiling=True)
    assert list(crosscoders) == ["x.0", "x.0.ceiling", "x.1"]


def study_of(**crosscoder):
    return loading.load(
        {
            "models": {"base": {"kind": "random"}, "tuned": {"kind": "random", "seed": 1}},
            "corpora": {"text": {"tokens": 100, "sources": {"a": {"kind": "local", "paths": ["x"]}}}},
            "crosscoders": {"x": {**SECTION, **crosscoder}},
        }
    )


@pytest.mark.parametrize(
    ("dedicated", "message"), [([0.1], "1 shares for 2 models"), ([0.6, 0.3], "these shares exceed 1")]
)
def test_impossible_shares_of_dedicated_latents_are_one_clear_error(dedicated, message):
    with pytest.raises(ConfigError, match=rf"crosscoders\.x\.dedicated: .*{message}"):
        study_of(dedicated=dedicated, shared=0.2)


def test_a_loaded_study_has_the_expanded_crosscoders():
    study = study_of(sweep={"k": [4, 8]}, ceiling=True)
    assert list(study.crosscoders) == ["x.0", "x.0.ceiling", "x.1", "x.1.ceiling"]
    assert study.ceiling("x.0") == "x.0.ceiling"
    assert study.ceiling("x.0.ceiling") is None
    settings = Jobs(study).train_crosscoder("x.1", "middle", "0").settings
    assert settings["k"] == 8
    assert not {"sweep", "ceiling", "processes", "track", "splice_tokens"} & set(settings)
