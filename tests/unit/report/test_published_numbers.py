"""Published numbers beside the study's own: looked up, shown, and refused where there is none."""

import copy

import pytest

import small_study
from diptych.config import loading
from diptych.crosscoder.evaluation import latents
from diptych.page.method_sections import PageData
from diptych.report import published_numbers
from diptych.report import stage as report_stage
from diptych.similarity import score_table
from diptych.storage import artifacts

SITE = small_study.SITE
SIMILARITY = {"kind": "similarity", "pair": "tuned", "site": SITE, "site_b": None, "measure": "rsa", "compat": None}
CROSSCODER = {"kind": "crosscoder", "crosscoder": "main", "seed": None, "quantity": "l0"}
TEMPLATE = {"kind": "template", "template_diff": "tuned", "role": "assistant", "latent": 0, "metric": "density"}
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def page():
    return PageData(small_study.shared(), n_contexts=2, n_full_cells=1)


def shown(page, *ours):
    """The cells `ours` of the table for an entry that stands beside these."""
    entry = {"what": "a number", "value": 0.5, "source": "a paper", "ours": list(ours)}
    [section] = published_numbers.section([entry], page)
    return [row[2] for row in section.blocks[1].rows]


def test_a_score_stands_beside_the_studys_own(page):
    table = score_table.read(page.inputs["similarity"])
    mine = (table["pair"] == "tuned") & (table["measure"] == "rsa") & (table["subspace"] == "all")
    [value] = table["value"][mine].tolist()
    [cell] = shown(page, SIMILARITY)
    assert cell.order == pytest.approx(value)
    [cell] = shown(page, {**SIMILARITY, "compat": "lan2024"})
    assert cell.text == "–"


def test_a_crosscoders_numbers_are_those_of_its_artifacts(page):
    pair = next(pair for pair in page.inputs["pairs"] if pair["name"] == "tuned")
    [run] = pair["files"]["crosscoders"]
    # The run of the same name of the first pair is taken: aliases are unique in a study, not in this small one.
    first = next(pair for pair in page.inputs["pairs"] if pair["files"].get("crosscoders"))
    assert first["name"] == "tuned"
    with artifacts.read(run["evaluation"], "evaluation") as file:
        summary = artifacts.read_json(file, "summary")
    with artifacts.read(run["latents"], "latents") as file:
        counts = artifacts.read_json(file, "counts")
        expected = {
            "l0": summary["l0_mean"], "explained_variance": 1 - summary["fvu_total"],
            "dead_share": summary["dead_share"],
            "only_a": counts["A-only"], "only_b": counts["B-only"], "shared": counts["shared"],
            "sharedness": artifacts.read_json(file, "sharedness")["activation"],
            "alignment": artifacts.read_json(file, "alignment")["0-1"]["value"],
        }  # fmt: skip
    assert set(counts) == set(latents.class_names(2))
    for quantity, value in expected.items():
        [cell] = shown(page, {**CROSSCODER, "quantity": quantity})
        assert cell.order == pytest.approx(value, nan_ok=True) or (value != value and cell.text == "–"), quantity


def test_a_feature_at_a_template_token_is_shown_in_both_models(page):
    pair = next(pair for pair in page.inputs["pairs"] if pair["name"] == "tuned")
    with artifacts.read(pair["files"]["template_diffs"][0]["diff"], "template_diff") as file:
        a, b = (float(file[f"roles/0/{side}/density"][0]) for side in "ab")
    [cell] = shown(page, TEMPLATE)
    assert cell.order == pytest.approx(b - a)
    assert " → " in cell.text
    missing, elsewhere = shown(page, {**TEMPLATE, "latent": 9999}, {**TEMPLATE, "role": "colon"})
    assert (missing.text, elsewhere.text) == ("–", "–")
    assert "features" in missing.hint
    assert "not compared there" in elsewhere.hint


def test_the_table_is_on_the_page_and_escaped(page, tmp_path):
    published = [
        {"what": SCRIPT, "value": SCRIPT, "source": SCRIPT, "ours": []},
        {"what": "RSA", "value": 0.207, "source": "Lan et al. 2024", "ours": [SIMILARITY]},
    ]
    report_stage.build(small_study.shared(), tmp_path / "page.html", spec=small_study.SPEC, published=published)
    html = (tmp_path / "page.html").read_text()
    assert "Published, beside ours" in html
    assert SCRIPT not in html
    assert ".207" in html
    report_stage.build(small_study.shared(), tmp_path / "none.html", spec=small_study.SPEC)
    assert "Published, beside ours" not in (tmp_path / "none.html").read_text()


# --- the config -----------------------------------------------------------------------------------------------------

STUDY = {
    "models": {"base": {"kind": "random"}, "tuned": {"kind": "random", "seed": 1, "tokenizer": "base"}},
    "corpora": {"text": {"tokens": 100, "sources": {"all": {"kind": "local", "paths": ["*.txt"]}}}},
    "dictionaries": {"sae": {"model": "base", "corpus": "text", "site": "middle"}},
    "pairs": {
        "pair": {"a": "base", "b": "tuned", "corpus": "text", "dictionary_a": "sae", "dictionary_b": "sae"},
        "bare": {"a": "base", "b": "tuned", "corpus": "text"},
    },
    "crosscoders": {
        "both": {"models": ["base", "tuned"], "corpus": "text"},
        "swapped": {"models": ["tuned", "base"], "corpus": "text"},
    },
}


def load(ours):
    study = copy.deepcopy(STUDY)
    study["published"] = [{"what": "a number", "value": 1, "source": "a paper", "ours": [ours]}]
    return loading.load(study)


SCORE = {"kind": "similarity", "pair": "pair", "site": "middle", "measure": "rsa"}


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (SCORE | {"pair": "pare"}, r"published\[0\].ours\[0\].pair: no pair is called 'pare'; did you mean 'pair'?"),
        (SCORE | {"pair": "bare"}, "compares no features at middle"),
        (SCORE | {"site": "last"}, "compares no features at last"),
        (SCORE | {"measure": "rsb"}, "published"),
        ({"kind": "crosscoder", "crosscoder": "bath", "quantity": "l0"}, "did you mean 'both'"),
        ({"kind": "crosscoder", "crosscoder": "both", "seed": 3, "quantity": "l0"}, r"both has seeds \[0\]"),
        ({"kind": "crosscoder", "crosscoder": "swapped", "quantity": "l0"}, "no pair compares the models of swapped"),
        ({"kind": "template", "template_diff": "tuned", "role": "asst", "latent": 1}, "no template diff is called"),
    ],
)
def test_a_number_that_the_study_does_not_compute_is_refused(ours, message):
    with pytest.raises(loading.ConfigError, match=message) as caught:
        load(ours)
    assert "\n" not in str(caught.value)


def test_numbers_that_it_computes_are_accepted():
    for ours in (SCORE, {"kind": "crosscoder", "crosscoder": "both", "quantity": "alignment"}):
        assert load(ours).published[0].ours[0].kind == ours["kind"]
