"""Checks of the section `published`: a number stands beside one that the study computes.

check(study)    # ConfigError: "published[0].ours[0].pair: no pair is called 'famly'; did you mean 'family'?"
"""

from collections.abc import Iterable

from diptych.config.sections.published import CrosscoderNumber, Ours, SimilarityNumber, TemplateNumber
from diptych.config.sections.strict import ConfigError, suggestion
from diptych.config.study import Study


def check(study: Study) -> None:
    """Check what the published numbers stand beside.

    Raises:
        ConfigError: the study computes no such number.
    """
    for index, entry in enumerate(study.published):
        for number, ours in enumerate(entry.ours):
            _check(study, f"published[{index}].ours[{number}]", ours)


def _check(study: Study, key: str, ours: Ours) -> None:
    match ours:
        case SimilarityNumber():
            _check_similarity(study, key, ours)
        case CrosscoderNumber():
            _check_name(f"{key}.crosscoder", "crosscoder", ours.crosscoder, study.crosscoders)
            crosscoder = study.crosscoders[ours.crosscoder]
            if ours.seed is not None and ours.seed not in crosscoder.seeds:
                raise ConfigError(f"{key}.seed: {ours.crosscoder} has seeds {list(crosscoder.seeds)}")
            compared = {(pair.a, pair.b, pair.corpus, site) for pair in study.pairs.values() for site in pair.sites}
            if (*crosscoder.models, crosscoder.corpus, crosscoder.site) not in compared:
                raise ConfigError(
                    f"{key}.crosscoder: no pair compares the models of {ours.crosscoder} at its site on its corpus, "
                    "so the page does not have it; add the pair, or take `ours` out"
                )
        case TemplateNumber():
            _check_name(f"{key}.template_diff", "template diff", ours.template_diff, study.template_diffs)


def _check_similarity(study: Study, key: str, ours: SimilarityNumber) -> None:
    _check_name(f"{key}.pair", "pair", ours.pair, study.pairs)
    cell = (ours.site, ours.site_b or ours.site)
    if cell not in study.cells(ours.pair) or not study.has_features(ours.pair, *cell):
        raise ConfigError(
            f"{key}.site: pairs.{ours.pair} compares no features at {cell[0]} of A and {cell[1]} of B; list the sites "
            "and their dictionaries there, or take `ours` out"
        )


def _check_name(key: str, noun: str, alias: str, known: Iterable[str]) -> None:
    if alias not in known:
        raise ConfigError(f"{key}: no {noun} is called {alias!r}{suggestion(alias, known)}")
