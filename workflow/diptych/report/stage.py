"""The report: an index and a page for each pair, from the artifacts of a study.

    build(inputs, "results/report/index.html", spec=spec, contexts=6)

`inputs` are plain values and paths (see `build`). The pages hold their own style and script, plotly.js lies beside them
once; they work from file:// without a network and are equal byte for byte for the same artifacts: they contain no date.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from diptych.findings import stage as findings_stage
from diptych.page import document
from diptych.page.document import Frame
from diptych.page.method_sections import PageData
from diptych.report import finding_cards, index_page, pair_page, trust
from diptych.report.addresses import INDEX, PLOTLY, page_id, page_of, with_id
from diptych.storage import artifacts

ROLE_ORDER = {"compared": 0, "planted": 1, "floor": 2, "control": 3}
"""Order of the pairs by role: the floor and the control, which have no difference, come last."""


def build(
    inputs: Mapping[str, Any],
    out: str | Path,
    *,
    spec: Mapping[str, Any],
    contexts: int = 6,
    cells: int = 4,
    published: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Stage `build_report`: write the pages of a study.

    Args:
        inputs: plain values and paths:
            `title`; `findings`, the artifact of `findings.stage.collect`;
            `models`, each {name, directory} and, where the config gives one, license;
            `corpora`, each {name, directory, tokens} and maybe license;
            `gates`, each {model, corpus, site, path};
            `dictionaries`, each {name, directory};
            `similarity`, the artifact of `similarity.score_table.collect`, if any;
            `relations`, the artifact of `relations.stage.collect`, if any;
            `maps`, the artifact of `similarity.feature_maps.draw`, if any;
            `crosscoders` of more than two models, each {name, models, site, tokens, runs};
            `pairs`, as for `findings.stage.collect`, and with corpus, dictionary_a, dictionary_b (names).
        out: path of the index; the pages of the pairs and plotly.js lie below its directory (`addresses`).
        spec: settings, code and packages of this stage; shown under provenance.
        contexts: contexts shown for each finding and each model.
        cells: cells of a pair's grid of sites that are shown in full.
        published: numbers in print, each {what, value, source, ours} (`config.sections.published`).
    """
    comparisons = sorted((with_id(pair) for pair in inputs["pairs"]), key=lambda pair: ROLE_ORDER[pair["role"]])
    page = PageData({**inputs, "pairs": comparisons}, n_contexts=contexts, n_full_cells=cells)
    findings = findings_stage.read(inputs["findings"])
    pairs = {
        name: [each for each in comparisons if each["name"] == name]
        for name in dict.fromkeys(each["name"] for each in comparisons)
    }
    cards = {name: finding_cards.of_pair(pair, findings, page) for name, pair in pairs.items()}
    control = trust.banner(findings)
    warning = None if control.tone == "pass" else control
    answer = index_page.answer(pairs, cards, findings, inputs)
    sections = index_page.sections(pairs, cards, findings, page, spec, published)
    directory = Path(out).parent
    frame = Frame("page-index", PLOTLY)
    artifacts.write_text(out, document.render(inputs["title"], warning, answer, sections, frame))
    for name, pair in pairs.items():
        title, frame = (
            f"{pair[0]['a']} → {pair[0]['b']}",
            Frame(page_id(name), f"../{PLOTLY}", inputs["title"], f"../{INDEX}"),
        )
        of_pair = pair_page.sections(name, pair, cards[name], findings, page, spec)
        html = document.render(title, warning, pair_page.answer(pair, findings), of_pair, frame)
        artifacts.write_text(directory / page_of(name), html)
    artifacts.write_text(directory / PLOTLY, get_plotlyjs())
