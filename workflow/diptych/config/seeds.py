"""Expansion of the seeds of dictionaries: further runs of a dictionary, and of all that findings are made with.

    with_seeds(study)
    # dictionaries: {"base_sae": seed 0, "base_sae.1": seed 1, ...}
    # pairs: {"tuned": through base_sae and tuned_sae, "tuned.1": through base_sae.1 and tuned_sae.1, ...}

The first seed keeps the alias. Repeats exist where findings are counted: of pairs of different models, at equal sites.
"""

from collections.abc import Iterator, Mapping

from diptych.config.sections.dictionaries import Dictionary, TrainedDictionary
from diptych.config.sections.pairs import Pair, RepeatedPair
from diptych.config.sections.strict import ConfigError
from diptych.config.sections.template_diffs import RepeatedTemplateDiff, TemplateDiff
from diptych.config.study import Study


def expand_dictionaries(dictionaries: Mapping[str, Dictionary]) -> dict[str, Dictionary]:
    """One dictionary per seed, by alias.

    Raises:
        ConfigError: a seed is listed twice, or an alias of a further seed is taken.
    """
    expanded: dict[str, Dictionary] = {}
    for alias, section in dictionaries.items():
        seeds = section.seeds if isinstance(section, TrainedDictionary) else (None,)
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"dictionaries.{alias}.seeds: lists a seed twice; take one out")
        for run, seed in enumerate(seeds):
            name = repeated(alias, run)
            if name in expanded or (run and name in dictionaries):
                raise ConfigError(f"dictionaries.{name}: `seeds` of {alias!r} makes this alias; rename one")
            expanded[name] = section if seed is None else section.model_copy(update={"seeds": (seed,)})
    return expanded


def repeated(alias: str, run: int) -> str:
    """Alias of the run with the seed at position `run` of `seeds`."""
    return f"{alias}.{run}" if run else alias


def n_seeds_of(dictionaries: Mapping[str, Dictionary]) -> dict[str, int]:
    """Number of seeds of each dictionary of a config, before their expansion."""
    return {
        name: len(entry.seeds) if isinstance(entry, TrainedDictionary) else 1 for name, entry in dictionaries.items()
    }


def with_repeats(study: Study, n_seeds: Mapping[str, int]) -> Study:
    """A study whose dictionaries are expanded, with the repeats of its pairs and template diffs.

    Args:
        study: with expanded dictionaries.
        n_seeds: of each trained dictionary of the config; others (fetched, `base_sae.1`) have one.
    """
    pairs: dict[str, Pair] = dict(study.pairs)
    diffs: dict[str, TemplateDiff] = dict(study.template_diffs)
    for alias, pair in study.pairs.items():
        pairs |= {repeated(alias, run): repeat for run, repeat in _repeats_of_pair(study, alias, pair, n_seeds)}
    for alias, diff in study.template_diffs.items():
        pair = study.pairs[diff.pair]
        for run in range(1, 1 if pair.a == pair.b else n_seeds.get(diff.dictionary, 1)):
            values = {**diff.model_dump(), "dictionary": repeated(diff.dictionary, run), "first": alias}
            diffs[repeated(alias, run)] = RepeatedTemplateDiff.model_validate(values)
    return study.model_copy(update={"pairs": pairs, "template_diffs": diffs})


def _repeats_of_pair(
    study: Study, alias: str, pair: Pair, n_seeds: Mapping[str, int]
) -> Iterator[tuple[int, RepeatedPair]]:
    if pair.a == pair.b:
        return
    equal_sites = [a for a, b in study.cells(alias) if a == b and study.has_features(alias, a, b)]
    n_runs = {
        site: min(n_seeds.get(name, 1) for name in study.dictionaries_at(alias, site, site)) for site in equal_sites
    }
    for run in range(1, max(n_runs.values(), default=1)):
        sites = tuple(site for site in equal_sites if n_runs[site] > run)
        names = [study.dictionaries_at(alias, site, site) for site in sites]
        values = {
            **pair.model_dump(),
            "sites": sites,
            "sites_b": (),
            "dictionary_a": tuple(dict.fromkeys(repeated(name, run) for name, _ in names)),
            "dictionary_b": tuple(dict.fromkeys(repeated(name, run) for _, name in names)),
            "first": alias,
        }
        yield run, RepeatedPair.model_validate(values)
