"""Features of two models with other tokenizers and widths, and grids of sites, through the whole workflow."""

import numpy as np
import pytest

from diptych import artifacts, features
from trees import parse_jobs

pytestmark = pytest.mark.workflow


def test_features_of_other_tokenizers_and_widths_are_paired(finished):
    results = finished / "results" / "test"
    for model, dictionary in (("base", "narrow_sae"), ("other", "first_sae")):
        assert "cannot read rows" in features.unreadable(results / "features" / "both" / model / dictionary / "0.h5")
    cell = results / "pairs" / "across" / "first--first"
    with artifacts.read(cell / "pairing.h5", "pairing") as file:
        pairs = artifacts.read_table(file, "pairs")
        matched = pairs["outcome"] == artifacts.read_json(file, "statuses").index("matched")
        assert "gain_a" not in file
    # Feature i of either dictionary detects the same token.
    assert matched.sum() > 20
    assert (pairs["a"] == pairs["b"])[matched].mean() > 0.9
    with artifacts.read(cell / "similarity.h5", "similarity") as file:
        scores = artifacts.read_table(file, "scores")
    value = dict(zip(scores["measure"], scores["value"], strict=True))
    assert np.isfinite([value[name] for name in ("rsa", "knn_jaccard_4", "mmcs", "cka_debiased")]).all()
    report = (results / "report" / "index.html").read_text()
    assert "Unmatched features of other were not tested on base: widths or sites differ." in report


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
