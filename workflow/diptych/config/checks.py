"""What one section of a config says of another: aliases that must exist, sites that must be listed, what must fit.

check(study)    # ConfigError: "pairs.tuned.b: no model is called 'tunde'; did you mean 'tuned'?"
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from diptych.config.sections.corpora import Corpus, CorpusText, HubText, Origin, WheelText
from diptych.config.sections.crosscoders import Crosscoder
from diptych.config.sections.dictionaries import Dictionary, SparsifyDictionary, TrainedDictionary
from diptych.config.sections.models import Model
from diptych.config.sections.pairs import Pair
from diptych.config.sections.strict import ConfigError, nearest
from diptych.config.sections.template_diffs import TemplateDiff
from diptych.config.study import Study
from diptych.config.sweeps import UNUSED, expand
from diptych.models import sites
from diptych.models.sites import can_be_steered
from diptych.runtime.errors import DiptychError
from diptych.text import templates, word_lists

REFERENCES: Mapping[str, Mapping[str, str]] = {
    "models": {"parent": "models", "corpus": "corpora", "evaluate_on": "corpora", "tokenizer": "models"},
    "dictionaries": {"model": "models", "corpus": "corpora"},
    "pairs": {
        "a": "models",
        "b": "models",
        "corpus": "corpora",
        "dictionary_a": "dictionaries",
        "dictionary_b": "dictionaries",
    },
    "crosscoders": {"corpus": "corpora", "stream": "corpora", "models": "models"},
    "template_diffs": {"pair": "pairs", "corpus": "corpora", "dictionary": "dictionaries"},
}
"""The fields of each section that name something of another section."""
PLAIN = (".txt", ".txt.gz", ".txt.zst")
"""Endings of files that are one text each."""
SINGULAR = {"models": "model", "corpora": "corpus", "dictionaries": "dictionary", "pairs": "pair"}


def check(study: Study) -> None:
    """Check what one section of a study says of another.

    Raises:
        ConfigError: naming the first key that is wrong, and what to do.
    """
    _check_sites(study)
    for where, kind, alias in _references(study):
        known: Iterable[str] = getattr(study, kind)
        if alias not in known:
            raise ConfigError(f"{where}: no {SINGULAR[kind]} is called {alias!r}{nearest(alias, known)}")
    for alias, model in study.models.items():
        study.lineage(alias)
        _check_held_out(study, alias, model)
    for alias, corpus in study.corpora.items():
        _check_corpus(study, alias, corpus)
    for alias, pair in study.pairs.items():
        _check_pair(study, alias, pair)
    for alias, crosscoder in study.crosscoders.items():
        _check_crosscoder(study, alias, crosscoder)
    for alias, diff in study.template_diffs.items():
        _check_template_diff(study, f"template_diffs.{alias}", diff)
    for alias, dictionary in study.dictionaries.items():
        _check_dictionary(study, f"dictionaries.{alias}", dictionary)
    for alias in study.steering.pairs or ():
        _check_steered(study, alias)
    _check_similarity(study)


def _check_sites(study: Study) -> None:
    listed = list(chain.from_iterable(study.sites.values()))
    for site in listed:
        if listed.count(site) > 1:
            raise ConfigError(f"sites: {site!r} is listed twice; a site belongs to one group")
        try:
            sites.check(site)
        except DiptychError as error:
            raise ConfigError(f"sites: {error}") from None


def _references(study: Study) -> Iterable[tuple[str, str, str]]:
    """(key, section, alias) for every alias that the config names."""
    for section, fields in REFERENCES.items():
        for alias, entry in getattr(study, section).items():
            for field, kind in fields.items():
                named = getattr(entry, field, None)
                listed = enumerate(named) if isinstance(named, tuple) else [(None, named)]
                for index, name in listed:
                    if name is not None:
                        index_text = "" if index is None else f"[{index}]"
                        yield f"{section}.{alias}.{field}{index_text}", kind, name
    for index, name in enumerate(study.steering.pairs or ()):
        yield f"steering.pairs[{index}]", "pairs", name
    yield from _mixtures(study)


def _check_held_out(study: Study, alias: str, model: Model) -> None:
    """A tuned model's loss is measured on documents that it is not trained on: equal corpora leave none."""
    trained, measured = getattr(model, "corpus", None), getattr(model, "evaluate_on", None)
    if trained and measured and study.corpora[trained] == study.corpora[measured]:
        raise ConfigError(
            f"models.{alias}.evaluate_on: {measured!r} has the documents of `corpus`, and none is held out; name a "
            "corpus with other ones"
        )


def _check_corpus(study: Study, alias: str, corpus: Corpus) -> None:
    _check_mixture(study, alias, ())
    if not templates.is_known(corpus.template):
        known = nearest(corpus.template, ["model", *templates.NAMED])
        raise ConfigError(f"corpora.{alias}.template: {corpus.template!r} is neither a name nor Jinja text{known}")
    if corpus.tokens is None and not all(origin.prompts for origin in corpus.sources.values()):
        raise ConfigError(f"corpora.{alias}.tokens: give a token budget, or let every source draw `prompts`")


def _check_template_diff(study: Study, where: str, diff: TemplateDiff) -> None:
    pair, site = study.pairs[diff.pair], study.dictionaries[diff.dictionary].site
    if site not in pair.sites:
        raise ConfigError(
            f"{where}.dictionary: {diff.dictionary!r} reads site {site!r}, which pairs.{diff.pair}.sites does not list"
        )
    if study.tokenizer(pair.a) != study.tokenizer(pair.b):
        raise ConfigError(
            f"{where}.pair: {pair.a} and {pair.b} have different tokenizers, and both must read one text; "
            f"{_share(study.tokenizer(pair.a), pair.b)}"
        )
    if diff.token is not None and diff.roles:
        raise ConfigError(f"{where}.token: give a token or roles, not both")
    if bool(diff.target) != bool(diff.control):
        raise ConfigError(f"{where}: give both target and control, or neither")
    sources = study.corpora[diff.corpus].sources
    _check_template_tokens(study, where, diff)
    for field in ("target", "control"):
        for name in getattr(diff, field):
            if name not in sources:
                raise ConfigError(
                    f"{where}.{field}: corpus {diff.corpus!r} has no source {name!r}{nearest(name, sources)}"
                )


def _check_template_tokens(study: Study, where: str, diff: TemplateDiff) -> None:
    """Every document must hold each role; of these, plain text has `text` and what its tokenizer inserts (`template`).

    A token wherever it stands may be in any text.
    """
    if diff.token is not None or (diff.roles and set(diff.roles) <= {"text", "template"}):
        return
    for label, origin in study.corpora[diff.corpus].sources.items():
        if _is_plain(study, origin):
            raise ConfigError(
                f"{where}.corpus: source {label!r} of {diff.corpus!r} is plain text and holds no template tokens; let "
                "it draw `prompts`, or compare at a `token`"
            )


def _is_plain(study: Study, origin: Origin) -> bool:
    """Whether a source can hold no conversation: it draws no prompts, and all of its files are plain texts."""
    if origin.prompts or isinstance(origin, HubText):
        return False
    if isinstance(origin, CorpusText):
        return all(_is_plain(study, part) for part in study.corpora[origin.corpus].sources.values())
    patterns = origin.files if isinstance(origin, WheelText) else origin.paths
    return origin.layout != "dialogue" and all(pattern.endswith(PLAIN) for pattern in patterns)


def _mixtures(study: Study) -> Iterable[tuple[str, str, str]]:
    """(key, section, alias) for every corpus that is a source of another one."""
    for alias, corpus in study.corpora.items():
        for label, origin in corpus.sources.items():
            if isinstance(origin, CorpusText):
                yield f"corpora.{alias}.sources.{label}.corpus", "corpora", origin.corpus


def _check_mixture(study: Study, alias: str, above: tuple[str, ...]) -> None:
    if alias in above:
        raise ConfigError(f"corpora.{above[0]}.sources: {' -> '.join([*above, alias])} never reaches a text")
    for origin in study.corpora[alias].sources.values():
        if isinstance(origin, CorpusText):
            _check_mixture(study, origin.corpus, (*above, alias))


def _check_pair(study: Study, alias: str, pair: Pair) -> None:
    for field in ("sites", "sites_b"):
        for site in getattr(pair, field):
            _check_site(study, f"pairs.{alias}.{field}", site)
    if (pair.dictionary_a is None) != (pair.dictionary_b is None):
        raise ConfigError(f"pairs.{alias}: give both dictionary_a and dictionary_b, or neither")
    for side in ("a", "b"):
        field = "sites_b" if side == "b" and pair.sites_b else "sites"
        read: dict[str, str] = {}
        for name in study.dictionaries_of(alias, side):
            site = study.dictionaries[name].site
            if site not in getattr(pair, field):
                raise ConfigError(
                    f"pairs.{alias}.dictionary_{side}: {name!r} reads site {site!r}, "
                    f"which pairs.{alias}.{field} does not list"
                )
            if site in read:
                raise ConfigError(
                    f"pairs.{alias}.dictionary_{side}: {read[site]!r} and {name!r} both read site {site!r}; "
                    "list one for each site"
                )
            read[site] = name


def _check_dictionary(study: Study, where: str, dictionary: Dictionary) -> None:
    _check_site(study, f"{where}.site", dictionary.site)
    if isinstance(dictionary, SparsifyDictionary) and (dictionary.path is None) == (dictionary.id is None):
        raise ConfigError(f"{where}: give either path (on disk) or id (on the hub)")
    if isinstance(dictionary, TrainedDictionary) and dictionary.architecture != "standard":
        _check_active(f"{where}.k", dictionary.k, "n_features", dictionary.n_features)


def _check_active(where: str, active: int, of: str, number: int) -> None:
    if active > number:
        raise ConfigError(f"{where}: {active} active of {number}; lower it, or raise {of}")


def _check_similarity(study: Study) -> None:
    names = [Path(name).stem for name in study.similarity.word_lists]
    for name in study.similarity.word_lists:
        try:
            word_lists.load(name)
        except DiptychError as error:
            raise ConfigError(f"similarity.word_lists: {error}") from None
        if names.count(Path(name).stem) > 1:
            raise ConfigError(f"similarity.word_lists: two lists are called {Path(name).stem!r}; rename one")
    _check_compat(study)
    compared = {cell for pair in study.pairs for cell in study.cells(pair) if study.has_features(pair, *cell)}
    for site in sorted({site for cell in compared for site in cell} if study.similarity.neurons else ()):
        neuron_site = sites.neurons_of(site)
        if neuron_site is None or neuron_site not in chain.from_iterable(study.sites.values()):
            needed = f"list {neuron_site!r} in a group of `sites`" if neuron_site else "it is no residual site"
            raise ConfigError(f"similarity.neurons: site {site!r} is compared, but {needed}; or set neurons: false")


def _check_compat(study: Study) -> None:
    """A published procedure that is asked for must be run on something: one tokenizer, and features."""
    cells = [(name, *cell) for name in study.pairs for cell in study.cells(name)]
    compared = [cell for cell in cells if study.has_features(*cell) and study.role(*cell) == "compared"]
    for procedure in study.similarity.compat:
        if any(study.reproduces(procedure, *cell) for cell in compared):
            continue
        if not compared:
            raise ConfigError(
                f"similarity.compat: {procedure} compares features, but no compared pair has dictionaries"
            )
        pair = study.pairs[compared[0][0]]
        raise ConfigError(
            f"similarity.compat: {procedure} is for models with one tokenizer, and those of no compared pair share it; "
            f"set models.{pair.b}.tokenizer: {study.tokenizer(pair.a)} if {pair.b} reads {pair.a}'s tokens"
        )


def _check_steered(study: Study, alias: str) -> None:
    for site in study.pairs[alias].sites:
        if not can_be_steered(site):
            raise ConfigError(
                f"steering.pairs: {alias!r} compares {site!r}, which is not in the residual stream; take it out"
            )


def _check_crosscoder(study: Study, alias: str, crosscoder: Crosscoder) -> None:
    _check_site(study, f"crosscoders.{alias}.site", crosscoder.site)
    for member in expand({alias: crosscoder}).values():
        _check_member(f"crosscoders.{alias}", crosscoder, member)
    if crosscoder.dedicated and len(crosscoder.dedicated) != len(crosscoder.models):
        raise ConfigError(
            f"crosscoders.{alias}.dedicated: {len(crosscoder.dedicated)} shares for {len(crosscoder.models)} models; "
            "give one for each"
        )
    if crosscoder.shared + sum(crosscoder.dedicated) > 1:
        raise ConfigError(f"crosscoders.{alias}.dedicated: with `shared` these are more than all latents; lower them")
    if len(crosscoder.models) == 2:
        return
    if "diff" in (crosscoder.objective, *crosscoder.sweep.objective):
        raise ConfigError(f"crosscoders.{alias}.objective: diff is x_B - x_A of two models; choose another one")
    owners = [study.tokenizer(model) for model in crosscoder.models]
    if len(set(owners)) > 1:
        other = next(model for model, owner in zip(crosscoder.models, owners, strict=True) if owner != owners[0])
        raise ConfigError(
            f"crosscoders.{alias}.models: more than two models must share a tokenizer (these have {', '.join(owners)})"
            f"; {_share(owners[0], other)}"
        )


def _check_member(where: str, crosscoder: Crosscoder, member: Crosscoder) -> None:
    """One crosscoder of a sweep, trained with an objective that has a k."""
    if member.weights is not None or UNUSED[member.objective] == "k":
        return
    swept = f"{where}.sweep" if crosscoder.sweep.k else where
    _check_active(f"{swept}.k", member.k, "n_latents", member.n_latents)
    _check_active(f"{where}.k_initial", member.k_initial, "n_latents", member.n_latents)


def _share(a: str, b: str) -> str:
    return f"if theirs are equal, say so with models.{b}.tokenizer: {a}"


def _check_site(study: Study, where: str, site: str) -> None:
    known = list(chain.from_iterable(study.sites.values()))
    if site not in known:
        raise ConfigError(f"{where}: no group of `sites` lists {site!r}{nearest(site, known)}")
