import copy
import re
from itertools import groupby
from pathlib import Path

import pytest
import yaml

from diptych.config import cells, loading
from diptych.config.documentation import write
from diptych.config.jobs import Jobs
from diptych.config.layout import Layout
from diptych.config.sections.strict import ConfigError
from diptych.config.study import Study

VALID = {
    "models": {
        "base": {"kind": "wheel", "package": "p", "version": "1", "sha256": "0" * 64, "file": "f.gguf"},
        "tuned": {"kind": "finetune", "parent": "base", "corpus": "old", "evaluate_on": "both"},
        "twice": {"kind": "rerandomize", "parent": "tuned"},
    },
    "corpora": {
        "old": {"sources": {"old": {"kind": "local", "paths": ["x"]}}, "tokens": 10},
        "both": {"sources": {"old": {"kind": "local", "paths": ["y"]}}, "tokens": 10},
        "texts": {"sources": {"old": {"kind": "local", "paths": ["*.txt"]}}, "tokens": 10},
        "plain": {"sources": {"all": {"kind": "corpus", "corpus": "texts"}}, "tokens": 10},
        "asked": {"sources": {"chat": {"kind": "local", "paths": ["x"], "prompts": {"number": 10}}}},
    },
    "dictionaries": {"sae": {"model": "base", "corpus": "both", "site": "middle"}},
    "pairs": {"tuned": {"a": "base", "b": "tuned", "corpus": "both", "dictionary_a": "sae", "dictionary_b": "sae"}},
    "crosscoders": {"tuned": {"models": ["base", "tuned"], "corpus": "both"}},
    "template_diffs": {"tuned": {"pair": "tuned", "corpus": "asked", "dictionary": "sae"}},
}


STUDENT = {"kind": "distill", "parent": "base", "corpus": "old", "evaluate_on": "both"}


def put(path, value):
    """A function that sets the value at a path of a config."""

    def change(config):
        *keys, last_key = path.split("/")
        for key in keys:
            config = config[key]
        config[last_key] = value

    return change


INVALID = [
    (put("models/base/file", ""), "models.base.file: must not be empty (got '')"),
    (put("models/base/file", " p"), "models.base.file: must not begin or end with a blank (got ' p')"),
    (put("models/base/file", "a\0b"), "models.base.file: must not hold control characters (got 'a\\x00b')"),
    (put("corpora/old/sources/old/paths", ["x\ny"]), "corpora.old.sources.old.paths: must not hold control characters"),
    (put("corpora/old/sources/old ", {"kind": "local", "paths": ["x"]}), "corpora.old.sources: must not begin or end"),
    (put("corpora/asked/sources/chat/prompts/ask", "a\x1b{sentence}"), "prompts.ask: must not hold control characters"),
    (put("results", "\t"), "results: must not be empty"),
    (put("crosscoders/tuned/n_latents", 10**15), "crosscoders.tuned.n_latents: input should be less than or equal to"),
    (put("corpora/old/tokens", 10**14), "corpora.old.tokens: input should be less than or equal to 10000000000000"),
    (
        put("dictionaries/sae/seeds", [-1]),
        "dictionaries.sae.seeds.0: input should be greater than or equal to 0 (got -1)",
    ),
    (put("models/tuned/learning_rate", float("inf")), "models.tuned.learning_rate: input should be a finite number"),
    (put("modles", {}), "modles: unknown key; did you mean 'models'?"),
    (put("models/base/sha", "x"), "models.base.sha: unknown key; did you mean 'sha256'?"),
    (put("models/base/sha256", "x"), "models.base.sha256: string should match"),
    (put("models/tuned/stepz", 3), "models.tuned.stepz: unknown key; did you mean 'steps'?"),
    (put("models/tuned/steps", 0), "models.tuned.steps: input should be greater than or equal to 1 (got 0)"),
    (put("models/tuned/kind", "lora"), "models.tuned.kind: no kind is called 'lora'; known: adapter, directory"),
    (put("models/more", STUDENT | {"loss": {}}), "models.more.loss: no loss has a weight; give one to kl, jacobian or"),
    (put("models/more", STUDENT | {"loss": {"kl": -1}}), "models.more.loss.kl: input should be greater than or equal"),
    (put("models/more", STUDENT | {"loss": {"kd": 1}}), "models.more.loss.kd: unknown key"),
    *(
        (
            put("models/more", STUDENT | {"layers": layers}),
            "models.more.layers: must be `every k`, a number of blocks, or",
        )
        for layers in ("every 0", "every", "3", 0, True, [], [0, -1], [0.5], None)
    ),
    (put("models/more", STUDENT | {"init": "teacher"}), "models.more.init: input should be 'parent' or 'random'"),
    (
        put("models/more", STUDENT | {"parent": "bass"}),
        "models.more.parent: no model is called 'bass'; did you mean 'base'?",
    ),
    (put("models/more", {"kind": "adapter", "parent": "base"}), "models.more: give either path (on disk) or id"),
    (
        put("models/more", {"kind": "adapter", "parent": "base", "path": "x", "id": "o/n", "revision": "main"}),
        "models.more: give either path (on disk) or id (on the hub)",
    ),
    (
        put("models/more", {"kind": "adapter", "parent": "base", "id": "o/n"}),
        "models.more.revision: goes with id; give the adapter's commit, tag or branch on the hub",
    ),
    (
        put("models/more", {"kind": "adapter", "parent": "base", "path": "x", "revision": "main"}),
        "models.more.revision: goes with id",
    ),
    (
        put("models/more", {"kind": "adapter", "parent": "base", "path": "x", "subfolder": "y"}),
        "models.more.subfolder: goes with id; write a folder on disk into path",
    ),
    (
        put("models/more", {"kind": "adapter", "parent": "bas", "path": "x"}),
        "models.more.parent: no model is called 'bas'; did you mean 'base'?",
    ),
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
    (
        put("dictionaries/sae/kind", "saelense"),
        "dictionaries.sae.kind: no kind is called 'saelense'; did you mean 'saelens'?",
    ),
    (
        put("dictionaries/sae", {"kind": "saelens", "release": "r", "idd": "x", "model": "base", "site": "middle"}),
        "dictionaries.sae.idd: unknown key; did you mean 'id'?",
    ),
    (
        put("dictionaries/sae", {"kind": "sparsify", "model": "base", "site": "middle"}),
        "dictionaries.sae: give either path (on disk) or id (on the hub)",
    ),
    (
        put(
            "dictionaries/sae",
            {"kind": "dictionary_learning", "model": "base", "site": "middle", "path": "saes", "id": "owner/saes"},
        ),
        "dictionaries.sae: give either path (on disk) or id (on the hub)",
    ),
    (
        put("pairs/tuned/dictionary_a", ["sae", "sae"]),
        "pairs.tuned.dictionary_a: 'sae' and 'sae' both read site 'middle'; list one for each site",
    ),
    (put("pairs/tuned/sites_b", ["midle"]), "pairs.tuned.sites_b: no group of `sites` lists 'midle'"),
    (
        put("similarity", {"word_lists": ["tiem"]}),
        "similarity.word_lists: word list 'tiem': not found; use one of body",
    ),
    (put("similarity", {"measures": ["svca"]}), "similarity.measures.0: input should be 'cca'"),
    (put("crosscoders/tuned/models", ["base"]), "crosscoders.tuned.models: list should have at least 2 items"),
    (put("crosscoders/tuned/models", ["base", "tund"]), "did you mean 'tuned'?"),
    (put("steering", {"pairs": ["tuend"]}), "steering.pairs[0]: no pair is called 'tuend'; did you mean 'tuned'?"),
    (put("steering", {"strengths": [0]}), "steering.strengths.0: input should be greater than 0 (got 0)"),
    (
        put("crosscoders/tuned", {"models": ["base", "tuned", "base"], "corpus": "both", "objective": "diff"}),
        "crosscoders.tuned.objective: diff is x_B - x_A of two models",
    ),
    (put("sites", {"main": ["middle"], "more": ["middle"]}), "sites: 'middle' is listed twice"),
    (
        put("sites", {"main": {"sites": ["middle"], "row": "first"}}),
        "sites.main.row: unknown key; did you mean 'rows'?",
    ),
    (
        put("sites", {"main": {"sites": ["middle"], "rows": "last"}}),
        "sites.main.rows: input should be 'all' or 'first'",
    ),
    (
        put("sites", {"main": {"sites": ["middle"], "rows": "first"}}),
        "sites.main stores the first rows of 'middle' only",
    ),
    (put("sites", {"main": ["midle"]}), "sites: site 'midle': no such hook; did you mean 'middle'?"),
    (put("sites", {"main": [1.5]}), "sites: site '1.5': a relative depth lies between 0 and 1"),
    (put("sites", {"main": ["last.mlp.post"]}), "no such hook; did you mean 'last.mlp.hook_post'?"),
    (put("sites", {"main": ["blocks.3.resid_post"]}), "did you mean 'blocks.3.hook_resid_post'?"),
    (put("corpora/old/tokens", None), "corpora.old.tokens: give a token budget, or let every source draw `prompts`"),
    (
        put("corpora/asked/sources/chat/prompts/nummber", 3),
        "corpora.asked.sources.chat.prompts.nummber: unknown key; did you mean 'number'?",
    ),
    (put("corpora/asked/positions", {"newline": 1}), "corpora.asked.positions.newline: input should be less than or"),
    (
        put("template_diffs/tuned/pair", "tunde"),
        "template_diffs.tuned.pair: no pair is called 'tunde'; did you mean 'tuned'?",
    ),
    (put("template_diffs/tuned/corpus", "aksed"), "template_diffs.tuned.corpus: no corpus is called 'aksed'"),
    (put("template_diffs/tuned/dictionary", "sea"), "template_diffs.tuned.dictionary: no dictionary is called 'sea'"),
    (
        put("models/tuned/tokenizer", "tuned"),
        "template_diffs.tuned.pair: base and tuned have different tokenizers, and both must read one text; "
        "if these are equal, set models.tuned.tokenizer: base",
    ),
    (put("template_diffs/tuned/target", ["chat"]), "template_diffs.tuned: give both target and control, or neither"),
    (put("template_diffs/tuned/link", "javascript:x"), "template_diffs.tuned.link: string should match pattern"),
    (
        put("crosscoders/tuned/stream", "odl"),
        "crosscoders.tuned.stream: no corpus is called 'odl'; did you mean 'old'?",
    ),
    (put("crosscoders/tuned/model_gpus", 1), "crosscoders.tuned.model_gpus: no model runs without `stream`; set that"),
    (
        lambda config: (put("crosscoders/tuned/stream", "old")(config), put("models/tuned/gpus", 2)(config)),
        "crosscoders.tuned.model_gpus: tuned is spread over 2 GPUs while it streams; give a multiple of 2, beside",
    ),
    (put("models/base/gpus", 0), "models.base.gpus: input should be greater than or equal to 1"),
    (put("crosscoders/tuned/rows", []), "crosscoders.tuned.rows: list should have at least 1 item"),
    (put("pairs/tuned/rows", 3), "pairs.tuned.rows: input should be a valid string (got 3)"),
    (put("pairs/tuned/dictionary_a", ["A b"]), "pairs.tuned.dictionary_a.0: string should match pattern"),
    (put("pairs/tuned/dictionary_a", 3), "pairs.tuned.dictionary_a: input should be a valid string (got 3)"),
    (
        put("corpora/old/sources/more", {"kind": "corpus", "corpus": "odl"}),
        "corpora.old.sources.more.corpus: no corpus is called 'odl'; did you mean 'old'?",
    ),
    (put("corpora/old/sources/more", {"kind": "corpus", "corpus": "old"}), "old -> old never reaches a text"),
    (put("crosscoders/tuned/n_latents", 64), "crosscoders.tuned.k: 100 active of 64; lower it, or raise n_latents"),
    (put("crosscoders/tuned/sweep", {"k": [8, 20_000]}), "crosscoders.tuned.sweep.k: 20000 active of 16384; lower it"),
    (put("crosscoders/tuned/sweep", {"n_latents": [128, 64]}), "crosscoders.tuned.k: 100 active of 64; lower it"),
    (put("crosscoders/tuned/k_initial", 20_000), "crosscoders.tuned.k_initial: 20000 active of 16384; lower it"),
    (put("dictionaries/sae/n_features", 16), "dictionaries.sae.k: 32 active of 16; lower it, or raise n_features"),
    (
        put("corpora/asked", {"sources": {"a": {"kind": "local", "paths": ["*.txt.gz"]}}, "tokens": 9}),
        "template_diffs.tuned.corpus: source 'a' of 'asked' is plain text and holds no template tokens",
    ),
    (
        put("corpora/old/sources/old/layout", "turns"),
        "corpora.old.sources.old.layout: input should be 'auto', 'column', 'dialogue' or 'tree' (got 'turns')",
    ),
    (
        put("corpora/old/sources/hub", {"kind": "hub", "id": "a/b", "revision": "main", "files": "a.json"}),
        "corpora.old.sources.hub.files: must be a list, as [a, b] (got 'a.json')",
    ),
    (
        put("template_diffs/tuned/corpus", "plain"),
        "template_diffs.tuned.corpus: source 'all' of 'plain' is plain text and holds no template tokens; let it draw "
        "`prompts`, or compare at a `token`",
    ),
    (
        put("corpora/asked/template", "chatlm"),
        "corpora.asked.template: 'chatlm' is neither a name nor Jinja text; did you mean 'chatml'?",
    ),
    (
        put("models/tuned/evaluate_on", "old"),
        "models.tuned.evaluate_on: 'old' has the documents of `corpus`, and none is held out; name a corpus with other",
    ),
    (put("corpora/both/sources/old/paths", ["x"]), "models.tuned.evaluate_on: 'both' has the documents of `corpus`"),
    (put("device", "gpu"), "device: input should be 'auto', 'cpu' or 'cuda' (got 'gpu')"),
    (
        lambda config: config["models"]["base"].pop("kind"),
        "models.base: `kind` is missing; give one of wheel, hub, dir",
    ),
    (
        put("corpora/old/sources/old", {"paths": ["x"]}),
        "corpora.old.sources.old: `kind` is missing; give one of wheel, local, hub, corpus",
    ),
    (put("pairs", None), "pairs: is empty; fill it in, or take it out"),
    (put("pairs/tuned", None), "pairs.tuned: is empty; fill it in, or take it out"),
    (put("models/base", None), "models.base: is empty; fill it in, or take it out"),
    (put("models/base/kind", None), "models.base: `kind` is missing"),
    (put("steering", None), "steering: is empty; fill it in, or take it out"),
    (put("corpora/old/sources/old", "x"), "corpora.old.sources.old: must hold keys, each as `key: value` (got 'x')"),
    (put("crosscoders/tuned/models", "base"), "crosscoders.tuned.models: must be a list, as [a, b] (got 'base')"),
    (lambda config: config.pop("models"), "models: field required"),
]


def test_a_valid_config_loads():
    study = loading.load(VALID)
    assert study.tokenizer("twice") == "base"
    assert study.group("middle") == "main"


@pytest.mark.parametrize(
    "change",
    [
        put("crosscoders/tuned", {"models": ["base", "tuned"], "corpus": "both", "objective": "l1", "n_latents": 64}),
        put("crosscoders/tuned", {"models": ["base", "tuned"], "corpus": "both", "weights": "w", "n_latents": 64}),
        put("crosscoders/tuned/sweep", {"k": [8, 16], "n_latents": [64]}),
        put("dictionaries/sae", {"model": "base", "corpus": "both", "site": "middle", "n_features": 16, "k": 16}),
        put("dictionaries/sae", {"model": "base", "corpus": "both", "site": "middle", "architecture": "standard",
                                 "n_features": 16}),
        put("template_diffs/tuned", {"pair": "tuned", "corpus": "plain", "dictionary": "sae", "token": " the"}),
        put("template_diffs/tuned", {"pair": "tuned", "corpus": "plain", "dictionary": "sae", "roles": ["template"]}),
        put("template_diffs/tuned/corpus", "both"),  # files of any kind may hold conversations
        put("corpora/asked", {"sources": {"a": {"kind": "local", "paths": ["*.txt"], "layout": "dialogue"}},
                              "tokens": 9}),
        put("corpora/asked/template", "{{ messages }}"),
        put("corpora/both/seed", 1),
    ],
)  # fmt: skip
def test_valid_changes_load(change):
    config = copy.deepcopy(VALID)
    change(config)
    loading.load(config)


def test_a_grid_is_every_site_of_a_by_every_site_of_b():
    config = copy.deepcopy(VALID)
    config["sites"] = {"main": ["first", "middle"]}
    config["dictionaries"]["early"] = {"kind": "directory", "path": "x", "model": "base", "site": "first"}
    config["dictionaries"]["again"] = {"kind": "directory", "path": "x", "model": "base", "site": "middle"}
    config["pairs"]["grid"] = {
        "a": "base", "b": "base", "corpus": "both", "sites": ["first", "middle"], "sites_b": ["first", "middle"],
        "dictionary_a": ["sae", "early"], "dictionary_b": ["again", "early"],
    }  # fmt: skip
    study = loading.load(config)
    assert study.cells("tuned") == [("middle", "middle")]
    cells = study.cells("grid")
    assert cells == [("first", "first"), ("first", "middle"), ("middle", "first"), ("middle", "middle")]
    assert [study.role("grid", *cell) for cell in cells] == ["control", "compared", "compared", "floor"]
    assert study.dictionary("grid", "a", "middle") == "sae"
    assert Jobs(study).compare_spaces("grid", "middle", "first").reads["dictionary_b"] == "early"
    assert study.role("tuned", "middle", "middle") == "compared"
    del config["pairs"]["grid"]["dictionary_a"], config["pairs"]["grid"]["dictionary_b"]
    assert not loading.load(config).has_features("grid", "first", "first")


EARLY = {"sites": ["first", 0.25, "middle"], "rows": "first"}


def test_sites_of_first_rows_have_means_alone():
    config = copy.deepcopy(VALID)
    config["sites"] = {"early": EARLY, "main": ["middle"]}
    config["pairs"]["tuned"] |= {"sites": ["middle", "first"]}
    study = loading.load(config)
    assert study.sites_of("early") == ("first", "0.25", "middle")
    assert (study.group("middle"), study.group("first")) == ("main", "early")
    files = cells.files_of(Layout(study), "tuned", "first", "first")
    assert set(files) == {"tokens_a", "tokens_b", "means", "means_of_pair"}
    assert files["means_of_pair"] == cells.files_of(Layout(study), "tuned", "middle", "middle")["means_of_pair"]
    assert len(files["means_of_pair"]) == 2
    assert not study.is_steered("tuned", "first", "first")
    jobs = Jobs(study)
    assert jobs.dump_activations("both", "base", "early", "0").settings["first"] == study.means.positions
    assert jobs.dump_activations("both", "base", "main", "0").settings["first"] is None
    assert "early" in str(jobs.compare_means("tuned", "first", "first").inputs["shards_a"])
    assert "main" in str(jobs.compare_means("tuned", "middle", "middle").inputs["shards_a"])


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (put("dictionaries/sae/site", "first"), "dictionaries.sae.site"),
        (put("crosscoders/tuned/site", "first"), "crosscoders.tuned.site"),
        (put("pairs/tuned/sites_b", ["middle"]), "pairs.tuned.sites"),
    ],
)
def test_nothing_else_reads_first_rows(change, key):
    config = copy.deepcopy(VALID)
    config["sites"] = {"early": EARLY, "main": ["middle"]}
    config["pairs"]["tuned"] |= {"sites": ["middle", "first"]}
    change(config)
    with pytest.raises(ConfigError, match=rf"{re.escape(key)}: sites\.early stores the first rows of 'first' only"):
        loading.load(config)


def test_corpora_of_a_derived_model():
    study = loading.load(VALID)
    assert [study.corpora_of(model) for model in ("base", "tuned", "twice")] == [[], ["old", "both"], []]


def test_only_the_residual_stream_is_steered():
    query_site = "blocks.0.attn.hook_q"
    config = copy.deepcopy(VALID)
    config["sites"] = {"main": ["middle", query_site]}
    config["pairs"]["tuned"] |= {"sites": ["middle", query_site]}
    study = loading.load(config)
    assert study.is_steered("tuned", "middle", "middle")
    assert not study.is_steered("tuned", query_site, query_site)
    with pytest.raises(ConfigError, match=r"'tuned' compares 'blocks\.0\.attn\.hook_q', which is not in the residual"):
        loading.load({**config, "steering": {"pairs": ["tuned"]}})


def test_controls_are_not_steered_unless_listed():
    config = copy.deepcopy(VALID)
    config["pairs"]["same"] = {"a": "base", "b": "base", "corpus": "both"}
    assert not loading.load(config).is_steered("same", "middle", "middle")
    assert loading.load({**config, "steering": {"pairs": ["same"]}}).is_steered("same", "middle", "middle")
    assert not loading.load({**config, "steering": {"pairs": []}}).is_steered("tuned", "middle", "middle")


@pytest.mark.parametrize(("change", "message"), INVALID, ids=lambda value: value if isinstance(value, str) else "")
def test_an_invalid_config_is_one_line(change, message):
    config = copy.deepcopy(VALID)
    change(config)
    with pytest.raises(ConfigError) as error:
        loading.load(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token": " the", "roles": ["newline"]}, "template_diffs.tuned.token: give a token or roles, not both"),
        ({"target": ["chat"], "control": ["chta"]}, "corpus 'asked' has no source 'chta'; did you mean 'chat'?"),
    ],
)
def test_keys_of_a_template_diff_must_agree(settings, message):
    config = copy.deepcopy(VALID)
    config["template_diffs"]["tuned"] |= settings
    with pytest.raises(ConfigError) as error:
        loading.load(config)
    assert message in str(error.value)


def test_a_published_procedure_must_have_models_to_run_on():
    config = {**copy.deepcopy(VALID), "template_diffs": {}, "similarity": {"compat": ["lan2024"]}}
    assert loading.load(config).reproduces("lan2024", "tuned", "middle", "middle")
    config["models"]["tuned"]["tokenizer"] = "tuned"
    with pytest.raises(ConfigError, match=r"similarity\.compat: lan2024 .* set models\.tuned\.tokenizer: base if"):
        loading.load(config)
    for side in "ab":
        del config["pairs"]["tuned"][f"dictionary_{side}"]
    with pytest.raises(ConfigError, match=r"similarity\.compat: lan2024 .* no compared pair has dictionaries"):
        loading.load(config)


def test_a_dictionary_of_another_site_is_no_template_diff():
    config = copy.deepcopy(VALID)
    config["sites"] = {"main": ["middle", "last"]}
    config["dictionaries"]["other"] = {"model": "base", "corpus": "both", "site": "last"}
    config["template_diffs"]["tuned"]["dictionary"] = "other"
    with pytest.raises(ConfigError, match=r"reads site 'last', which pairs\.tuned\.sites does not list"):
        loading.load(config)


def test_numbers_that_yaml_reads_as_text_are_numbers():
    config = copy.deepcopy(VALID)
    config["models"]["tuned"]["learning_rate"] = "5e-5"
    assert loading.load(config).models["tuned"].learning_rate == 5e-5


def test_prose_may_hold_blanks_and_lines():
    config = copy.deepcopy(VALID)
    put("corpora/asked/sources/chat/prompts/ask", " Hm:\n\t{sentence} ")(config)
    put("steering", {"prompts": ["The ", "\n"]})(config)
    study = loading.load(config)
    assert study.steering.prompts == ("The ", "\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: a\nmodels: {}\ntitle: b\n", "title is given twice, in lines 1 and 3; take one out"),
        ("models:\n  a: {kind: x,\n      seed: 0, seed: 1}\n", "models.a.seed is given twice, in lines 3 and 3"),
        ('{"pairs": [{"a": 1,\n"a": 2}]}', "pairs.a is given twice, in lines 1 and 2"),
    ],
)
def test_a_key_given_twice_is_an_error(tmp_path, text, message):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"study.yaml: {message}")):
        loading.check_keys([tmp_path / "study.yaml"])


def test_a_merged_key_may_be_given_again(tmp_path):
    (tmp_path / "study.yaml").write_text("a: &a {seed: 0, k: 1}\nb: {<<: *a, seed: 1}\nc: *a\n")
    loading.check_keys([tmp_path / "study.yaml"])


def test_reference_is_in_sync():
    assert write.main(["--check"]) == 0


README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
UNDEFINED_IN_README = {
    "models": {name: {"kind": "directory", "path": name} for name in ("small", "large", "tuned")},
    "sites": {"main": ["middle", "blocks.2.hook_resid_post", "blocks.5.hook_resid_post"]},
    "corpora": {"text": {"sources": {"x": {"kind": "local", "paths": ["x"]}}, "tokens": 10}},
}
"""Sections that the README's later examples refer to and do not show."""


def readme_configs():
    """The README's indented blocks that are sections of a config."""
    blocks = [
        "\n".join(lines)
        for is_block, lines in groupby(README.splitlines(), lambda line: line[:4] in ("    ", ""))
        if is_block
    ]
    keys = tuple(f"    {name}:" for name in Study.model_fields)
    return [yaml.safe_load(block) for block in blocks if block.strip("\n").startswith(keys)]


def merged(first, second):
    """Two configs merged recursively."""
    common = first.keys() & second.keys()
    sections = {key: merged(first[key], second[key]) for key in common if isinstance(first[key], dict)}
    return {**first, **second, **sections}


def test_the_examples_of_the_readme_are_studies():
    first, with_prompts, *others = readme_configs()
    assert loading.load(first).pairs
    assert loading.load(merged(first, with_prompts)).template_diffs
    assert [set(config) for config in others] == [{"dictionaries"}, {"crosscoders"}]
    for config in others:
        loading.load(merged(merged(first, UNDEFINED_IN_README), config))


def test_relative_depths_need_no_quotes():
    config = copy.deepcopy(VALID)
    for change in (
        put("sites", {"main": [0.25, "middle", 1]}),
        put("pairs/tuned/sites", [0.25, "middle"]),
        put("pairs/tuned/sites_b", [0.25, "middle"]),
        put("dictionaries/deep", {"model": "base", "corpus": "both", "site": 0.25}),
        put("crosscoders/tuned/site", 0.25),
    ):
        change(config)
    study = loading.load(config)
    assert study.sites == {"main": ("0.25", "middle", "1")}
    assert study.cells("tuned")[0] == ("0.25", "0.25")
    assert study.dictionaries["deep"].site == study.crosscoders["tuned"].site == "0.25"
    assert Jobs(study).dump_activations("both", "base", "main", "0").settings["sites"] == ["0.25", "middle", "1"]
    put("sites", {"main": [True]})(config)
    with pytest.raises(ConfigError, match=r"sites.main.0: input should be a valid string \(got True\)"):
        loading.load(config)
