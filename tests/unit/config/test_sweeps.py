"""Sweeps and ceilings of the config: which crosscoders they stand for, and under which names."""

import pytest

from diptych.config import loading
from diptych.config.jobs import Jobs
from diptych.config.sections.crosscoders import Crosscoder, Sweep
from diptych.config.sections.strict import ConfigError
from diptych.config.sweeps import expand

GIVEN = {"models": ["base", "tuned"], "corpus": "text"}


def made(**more):
    return expand({"x": Crosscoder.model_validate({**GIVEN, **more})})


def test_without_a_sweep_a_crosscoder_stands_for_itself():
    assert list(made()) == ["x"]


def test_every_combination_under_the_places_of_its_values():
    found = made(sweep={"k": [16, 32], "n_latents": [256, 512]})
    assert {name: (one.n_latents, one.k) for name, one in found.items()} == {
        "x.0.0": (256, 16), "x.0.1": (256, 32), "x.1.0": (512, 16), "x.1.1": (512, 32),
    }  # fmt: skip
    assert all(one.sweep == Sweep() for one in found.values())


def test_a_value_added_at_the_end_leaves_the_others_alone():
    before = made(sweep={"k": [16, 32], "n_latents": [256]})
    after = made(sweep={"k": [16, 32, 64], "n_latents": [256, 512]})
    assert {name: after[name] for name in before} == before


def test_an_objective_is_not_trained_twice_for_a_key_that_it_does_not_use():
    found = made(sweep={"objective": ["batchtopk", "l1"], "k": [16, 32], "penalty": [1, 2]})
    assert {name: (one.objective, one.k, one.penalty) for name, one in found.items()} == {
        "x.0.0.0": ("batchtopk", 16, 1.0), "x.0.1.0": ("batchtopk", 32, 1.0),
        "x.1.0.0": ("l1", 16, 1.0), "x.1.0.1": ("l1", 16, 2.0),
    }  # fmt: skip


def test_a_ceiling_is_the_first_model_with_itself_from_independent_values():
    found = made(ceiling=True, sweep={"k": [16, 32]}, steps=77)
    assert list(found) == ["x.0", "x.0.ceiling", "x.1", "x.1.ceiling"]
    ceiling = found["x.1.ceiling"]
    assert (ceiling.models, ceiling.k, ceiling.steps) == (("base", "base"), 32, 77)
    assert ceiling.independent
    assert not found["x.1"].independent


def test_an_alias_made_twice_is_one_clear_error():
    one = Crosscoder.model_validate({**GIVEN, "ceiling": True})
    with pytest.raises(ConfigError, match=r"crosscoders\.x\.ceiling: .*rename"):
        expand({"x": one, "x.ceiling": Crosscoder.model_validate(GIVEN)})


def test_a_difference_has_no_ceiling():
    with pytest.raises(ConfigError, match=r"crosscoders\.x\.ceiling: .* is 0"):
        made(objective="diff", ceiling=True)
    swept = made(sweep={"objective": ["batchtopk", "diff"]}, ceiling=True)
    assert list(swept) == ["x.0", "x.0.ceiling", "x.1"]


def study_of(**crosscoder):
    return loading.load(
        {
            "models": {"base": {"kind": "random"}, "tuned": {"kind": "random", "seed": 1}},
            "corpora": {"text": {"tokens": 100, "sources": {"a": {"kind": "local", "paths": ["x"]}}}},
            "crosscoders": {"x": {**GIVEN, **crosscoder}},
        }
    )


@pytest.mark.parametrize(
    ("dedicated", "said"), [([0.1], "1 shares for 2 models"), ([0.6, 0.3], "more than all latents")]
)
def test_dedicated_latents_that_cannot_be_are_one_clear_error(dedicated, said):
    with pytest.raises(ConfigError, match=rf"crosscoders\.x\.dedicated: .*{said}"):
        study_of(dedicated=dedicated, shared=0.2)


def test_the_study_holds_what_is_trained():
    study = study_of(sweep={"k": [4, 8]}, ceiling=True)
    assert list(study.crosscoders) == ["x.0", "x.0.ceiling", "x.1", "x.1.ceiling"]
    assert study.ceiling("x.0") == "x.0.ceiling"
    assert study.ceiling("x.0.ceiling") is None
    settings = Jobs(study).train_crosscoder("x.1", "middle", "0").settings
    assert settings["k"] == 8
    assert not {"sweep", "ceiling", "processes", "track", "splice_tokens"} & set(settings)
