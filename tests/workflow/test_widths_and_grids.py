"""Features of two models with other tokenizers and widths, and grids of sites, through the whole workflow."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from diptych.dictionaries import codes
from diptych.storage import artifacts
from trees import Tree, parse_jobs

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def across(finished, tmp_path_factory):
    """Results of a pair of two tokenizers, widths and architectures with a dictionary each, and its neurons."""
    place = tmp_path_factory.mktemp("across") / "tree"
    shutil.copytree(finished, place, symlinks=True)
    tree = Tree(place)
    config = tree.config()
    narrow = {"kind": "directory", "path": "tests/data/dictionary_narrow", "model": "other", "site": "first"}
    config["dictionaries"]["narrow_sae"] = narrow
    config["pairs"] = {"across": {**config["pairs"]["across"], "dictionary_a": "first_sae",
                                  "dictionary_b": "narrow_sae"}}  # fmt: skip
    config["sites"]["neurons"] = ["first.mlp.hook_post"]
    config["similarity"] |= {"neurons": True, "neuron_rows": 3000}
    tree.write_config(config | {"template_diffs": {}, "crosscoders": {}, "steering": {"pairs": []}})
    tree.snakemake()
    return place / "results" / "test"


def test_features_of_other_tokenizers_and_widths_are_paired(across):
    for model, dictionary in (("base", "narrow_sae"), ("other", "first_sae")):
        assert "cannot read rows" in codes.unreadable(across / "features" / "both" / model / dictionary / "0.h5")
    cell = across / "pairs" / "across" / "first--first"
    with artifacts.read(cell / "pairing.h5", "pairing") as file:
        pairs = artifacts.read_table(file, "pairs")
        matched = pairs["outcome"] == artifacts.read_json(file, "statuses").index("matched")
        assert "gain_a" not in file
    # Feature i of either dictionary detects the same token.
    assert matched.sum() > 20
    assert (pairs["a"] == pairs["b"])[matched].mean() > 0.9
    report = (across / "report" / "pairs" / "across.html").read_text()
    assert "Unmatched features of other were not tested on base: widths or sites differ." in report
    assert "nothing can be said: neither dictionary was read on the other model" in report


def test_neurons_are_scored_beside_features(across):
    with artifacts.read(across / "pairs" / "across" / "first--first" / "similarity.h5", "similarity") as file:
        scores = artifacts.read_table(file, "scores")
    whole = scores["subspace"] == "all"
    for points in ("features", "neurons"):
        mine = whole & (scores["points"] == points) & np.isin(scores["measure"], ("rsa", "mmcs", "mean_rho"))
        assert mine.sum() == 3
        assert np.isfinite(scores["value"][mine]).all()
        assert np.isfinite(scores["null_mean"][mine]).all()


def test_a_cell_of_two_sites_reads_no_dictionary_on_the_other_model(blank):
    """A dictionary of the first site of one model is no question to the first site of the other."""
    config = blank.config()
    config["pairs"] = {"grid": {"a": "base", "b": "tuned", "corpus": "both", "sites": ["last"], "sites_b": ["first"],
                                "dictionary_a": "base_sae", "dictionary_b": "tuned_first"}}  # fmt: skip
    config["dictionaries"]["tuned_first"] = {**config["dictionaries"]["first_sae"], "model": "tuned"}
    config |= {"template_diffs": {}, "crosscoders": {}, "steering": {"pairs": []}}
    blank.write_config(config)
    read = {tuple(dict(job.wildcards)[key] for key in ("model", "dictionary"))
            for job in parse_jobs(blank.snakemake("--dry-run").stdout) if job.rule == "encode_features"}  # fmt: skip
    assert read == {("base", "base_sae"), ("tuned", "tuned_first")}


def write_dictionary(place, seed):
    """Random directions of width 32; four features are active on a token."""
    place.mkdir(parents=True)
    rows = np.random.default_rng(seed).normal(size=(48, 32)).astype(np.float32)
    weights = {"W_dec": rows, "W_enc": np.ascontiguousarray(rows.T), "b_enc": np.zeros(48, np.float32),
               "b_dec": np.zeros(32, np.float32)}  # fmt: skip
    save_file(weights, place / "sae_weights.safetensors")
    (place / "cfg.json").write_text(json.dumps({"architecture": "topk", "k": 4, "d_in": 32, "d_sae": 48}))


def test_a_grid_of_a_deep_and_a_shallow_model(blank):
    """As in config/studies/universality.yaml: a site that one of the models lacks is in a group of its own."""
    places = {"deep_0": ("base", 0), "deep_3": ("base", 3), "shallow_0": ("shallow", 0), "shallow_1": ("shallow", 1)}
    for seed, name in enumerate(places):
        write_dictionary(blank.path / "dictionaries" / name, seed)
    config = blank.config()
    base = {**config["models"]["base"], "layers": 4}
    config = {name: config[name] for name in ("title", "results", "device", "corpora", "similarity")} | {
        "models": {"base": base, "shallow": {**base, "layers": 2, "seed": 1, "tokenizer": "base"}},
        "sites": {"main": [f"blocks.{k}.hook_resid_post" for k in (0, 1)], "deep": ["blocks.3.hook_resid_post"]},
        "dictionaries": {
            name: {"kind": "directory", "path": f"dictionaries/{name}", "model": model,
                   "site": f"blocks.{block}.hook_resid_post"}
            for name, (model, block) in places.items()
        },
        "pairs": {"grid": {
            "a": "base", "b": "shallow", "corpus": "both",
            "sites": [f"blocks.{k}.hook_resid_post" for k in (0, 3)],
            "sites_b": [f"blocks.{k}.hook_resid_post" for k in (0, 1)],
            "dictionary_a": ["deep_0", "deep_3"], "dictionary_b": ["shallow_0", "shallow_1"],
        }},
        "steering": {"pairs": []},
    }  # fmt: skip
    config["corpora"] = {"both": config["corpora"]["both"]}
    blank.write_config(config)
    jobs = parse_jobs(blank.snakemake("--dry-run").stdout)
    dumped = {tuple(dict(job.wildcards)[key] for key in ("model", "group")) for job in jobs
              if job.rule == "dump_activations"}  # fmt: skip
    assert dumped == {("base", "main"), ("base", "deep"), ("shallow", "main")}
    place = "results/test/pairs/grid/blocks.3.hook_resid_post--blocks.0.hook_resid_post"
    blank.snakemake(f"{place}/correlation.h5", f"{place.replace('.3.', '.0.')}/pairing.h5")
    assert (blank.path / place / "correlation.h5").is_file()
