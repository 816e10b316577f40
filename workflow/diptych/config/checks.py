"""Checks across the sections of a config: aliases exist, sites are listed, and settings agree.

check(study)    # ConfigError: "pairs.tuned.b: no model is called 'tunde'; did you mean 'tuned'?"
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from diptych.config import published_numbers
from diptych.config.sections.corpora import Corpus, CorpusText, HubText, Source, WheelText
from diptych.config.sections.crosscoders import Crosscoder
from diptych.config.sections.dictionaries import (
    Dictionary,
    DictionaryLearningDictionary,
    SparsifyDictionary,
    TrainedDictionary,
)
from diptych.config.sections.models import Adapter, Distill, Model
from diptych.config.sections.pairs import Pair
from diptych.config.sections.strict import ConfigError, suggestion
from diptych.config.sections.template_diffs import TemplateDiff
from diptych.config.study import Study
from diptych.config.sweeps import UNUSED_KEY, expand
from diptych.models import sites
from diptych.models.sites import can_be_steered, is_output_of_block
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
"""For each section, its fields that hold aliases, and the section in which these are defined."""
PLAIN = tuple(f"{text}{packed}" for text in (".txt", ".md", ".py") for packed in ("", ".gz", ".zst"))
"""Endings of files that are one text each."""
SINGULAR = {"models": "model", "corpora": "corpus", "dictionaries": "dictionary", "pairs": "pair"}
"""Singular of a section's name, for messages."""


def check(study: Study) -> None:
    """Check the references between the sections of a study.

    Raises:
        ConfigError: naming the first key that is wrong, and what to do.
    """
    _check_sites(study)
    for key, section, alias in _references(study):
        known: Iterable[str] = getattr(study, section)
        if alias not in known:
            raise ConfigError(f"{key}: no {SINGULAR[section]} is called {alias!r}{suggestion(alias, known)}")
    for alias, model in study.models.items():
        study.lineage(alias)
        _check_held_out(study, alias, model)
        if isinstance(model, Adapter):
            _check_adapter(f"models.{alias}", model)
        if isinstance(model, Distill):
            _check_student(f"models.{alias}", model)
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
    published_numbers.check(study)


def _check_sites(study: Study) -> None:
    for has_first_rows in (False, True):
        groups = [group for group in study.sites if study.has_first_rows(group) == has_first_rows]
        all_sites = list(chain.from_iterable(map(study.sites_of, groups)))
        for site in all_sites:
            if all_sites.count(site) > 1:
                raise ConfigError(f"sites: {site!r} is listed twice; a site belongs to one group")
            try:
                sites.check(site)
            except DiptychError as error:
                raise ConfigError(f"sites: {error}") from None


def _references(study: Study) -> Iterable[tuple[str, str, str]]:
    """(key, section, alias) for every alias that the config refers to."""
    for section, fields in REFERENCES.items():
        for alias, entry in getattr(study, section).items():
            for field, target_section in fields.items():
                value = getattr(entry, field, None)
                targets = enumerate(value) if isinstance(value, tuple) else [(None, value)]
                for index, target in targets:
                    if target is not None:
                        suffix = "" if index is None else f"[{index}]"
                        yield f"{section}.{alias}.{field}{suffix}", target_section, target
    for index, pair in enumerate(study.steering.pairs or ()):
        yield f"steering.pairs[{index}]", "pairs", pair
    for alias in study.steering.features:
        yield "steering.features", "dictionaries", alias
    yield from _mixture_references(study)


def _check_held_out(study: Study, alias: str, model: Model) -> None:
    """Check that a tuned model's loss is measured on documents that it is not trained on."""
    training, evaluation = getattr(model, "corpus", None), getattr(model, "evaluate_on", None)
    if training and evaluation and study.corpora[training] == study.corpora[evaluation]:
        raise ConfigError(
            f"models.{alias}.evaluate_on: {evaluation!r} has the documents of `corpus`, and none is held out; name a "
            "corpus with other ones"
        )


def _check_adapter(where: str, adapter: Adapter) -> None:
    """An adapter is in a directory, or on the hub at a revision."""
    if (adapter.path is None) == (adapter.id is None):
        raise ConfigError(f"{where}: give either path (on disk) or id (on the hub)")
    if (adapter.id is None) != (adapter.revision is None):
        raise ConfigError(f"{where}.revision: goes with id; give the adapter's commit, tag or branch on the hub")
    if adapter.subfolder is not None and adapter.id is None:
        raise ConfigError(f"{where}.subfolder: goes with id; write a folder on disk into path")


def _check_student(where: str, student: Distill) -> None:
    """A student has something to learn."""
    if not student.loss.kl + student.loss.jacobian + student.loss.hidden:
        raise ConfigError(f"{where}.loss: no loss has a weight; give one to kl, jacobian or hidden, as {{kl: 1}}")


def _check_corpus(study: Study, alias: str, corpus: Corpus) -> None:
    _check_mixture(study, alias, ())
    if not templates.is_known(corpus.template):
        hint = suggestion(corpus.template, ["model", *templates.NAMED])
        raise ConfigError(f"corpora.{alias}.template: {corpus.template!r} is neither a name nor Jinja text{hint}")
    if corpus.tokens is None and not all(source.prompts for source in corpus.sources.values()):
        raise ConfigError(f"corpora.{alias}.tokens: give a token budget, or let every source draw `prompts`")


def _check_template_diff(study: Study, key: str, diff: TemplateDiff) -> None:
    pair, site = study.pairs[diff.pair], study.dictionaries[diff.dictionary].site
    if site not in pair.sites:
        raise ConfigError(
            f"{key}.dictionary: {diff.dictionary!r} reads site {site!r}, which pairs.{diff.pair}.sites does not list"
        )
    if study.tokenizer(pair.a) != study.tokenizer(pair.b):
        raise ConfigError(
            f"{key}.pair: {pair.a} and {pair.b} have different tokenizers, and both must read one text; "
            f"{_tokenizer_hint(study.tokenizer(pair.a), pair.b)}"
        )
    if diff.token is not None and diff.roles:
        raise ConfigError(f"{key}.token: give a token or roles, not both")
    if bool(diff.target) != bool(diff.control):
        raise ConfigError(f"{key}: give both target and control, or neither")
    sources = study.corpora[diff.corpus].sources
    _check_template_tokens(study, key, diff)
    for field in ("target", "control"):
        for name in getattr(diff, field):
            if name not in sources:
                raise ConfigError(
                    f"{key}.{field}: corpus {diff.corpus!r} has no source {name!r}{suggestion(name, sources)}"
                )


def _check_template_tokens(study: Study, key: str, diff: TemplateDiff) -> None:
    """Check that the corpus' documents have the compared roles.

    Plain text has only the roles `text` and `template` (tokens that its tokenizer inserts); a given `token` may occur
    in any text.
    """
    if diff.token is not None or (diff.roles and set(diff.roles) <= {"text", "template"}):
        return
    for label, source in study.corpora[diff.corpus].sources.items():
        if _is_plain_text(study, source):
            raise ConfigError(
                f"{key}.corpus: source {label!r} of {diff.corpus!r} is plain text and holds no template tokens; let "
                "it draw `prompts`, or compare at a `token`"
            )


def _is_plain_text(study: Study, source: Source) -> bool:
    """Whether a source can have no conversations: it draws no prompts, and all of its files are plain text."""
    if source.prompts or isinstance(source, HubText):
        return False
    if isinstance(source, CorpusText):
        return all(_is_plain_text(study, part) for part in study.corpora[source.corpus].sources.values())
    patterns = source.files if isinstance(source, WheelText) else source.paths
    return source.layout != "dialogue" and all(pattern.endswith(PLAIN) for pattern in patterns)


def _mixture_references(study: Study) -> Iterable[tuple[str, str, str]]:
    """(key, section, alias) for every corpus that is a source of another one."""
    for alias, corpus in study.corpora.items():
        for label, source in corpus.sources.items():
            if isinstance(source, CorpusText):
                yield f"corpora.{alias}.sources.{label}.corpus", "corpora", source.corpus


def _check_mixture(study: Study, alias: str, parents: tuple[str, ...]) -> None:
    if alias in parents:
        raise ConfigError(f"corpora.{parents[0]}.sources: {' -> '.join([*parents, alias])} never reaches a text")
    for source in study.corpora[alias].sources.values():
        if isinstance(source, CorpusText):
            _check_mixture(study, source.corpus, (*parents, alias))


def _check_pair(study: Study, alias: str, pair: Pair) -> None:
    for field in ("sites", "sites_b"):
        for site in getattr(pair, field):
            _check_site(study, f"pairs.{alias}.{field}", site)
            if pair.sites_b:
                _check_all_rows(study, f"pairs.{alias}.{field}", site)
    if (pair.dictionary_a is None) != (pair.dictionary_b is None):
        raise ConfigError(f"pairs.{alias}: give both dictionary_a and dictionary_b, or neither")
    for side in ("a", "b"):
        field = "sites_b" if side == "b" and pair.sites_b else "sites"
        dictionary_at: dict[str, str] = {}
        for name in study.dictionaries_of(alias, side):
            site = study.dictionaries[name].site
            if site not in getattr(pair, field):
                raise ConfigError(
                    f"pairs.{alias}.dictionary_{side}: {name!r} reads site {site!r}, "
                    f"which pairs.{alias}.{field} does not list"
                )
            if site in dictionary_at:
                raise ConfigError(
                    f"pairs.{alias}.dictionary_{side}: {dictionary_at[site]!r} and {name!r} both read site {site!r}; "
                    "list one for each site"
                )
            dictionary_at[site] = name


def _check_dictionary(study: Study, key: str, dictionary: Dictionary) -> None:
    _check_site(study, f"{key}.site", dictionary.site)
    _check_all_rows(study, f"{key}.site", dictionary.site)
    if isinstance(dictionary, SparsifyDictionary | DictionaryLearningDictionary) and (
        (dictionary.path is None) == (dictionary.id is None)
    ):
        raise ConfigError(f"{key}: give either path (on disk) or id (on the hub)")
    if not isinstance(dictionary, TrainedDictionary):
        return
    if dictionary.architecture != "standard":
        _check_active(f"{key}.k", dictionary.k, "n_features", dictionary.n_features)
    if len(set(dictionary.models)) < len(dictionary.models):
        raise ConfigError(f"{key}.model: lists a model twice; take one out")
    for model in dictionary.models:
        if study.tokenizer(model) != study.tokenizer(dictionary.models[0]):
            raise ConfigError(
                f"{key}.model: {dictionary.models[0]} and {model} have different tokenizers, and both must read one "
                f"text; {_tokenizer_hint(study.tokenizer(dictionary.models[0]), model)}"
            )


def _check_active(key: str, k: int, size_key: str, size: int) -> None:
    """Check that no more latents are active than the dictionary has."""
    if k > size:
        raise ConfigError(f"{key}: {k} active of {size}; lower it, or raise {size_key}")


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
    compared_cells = {cell for pair in study.pairs for cell in study.cells(pair) if study.has_features(pair, *cell)}
    for site in sorted({site for cell in compared_cells for site in cell} if study.similarity.neurons else ()):
        neuron_site = sites.neurons_of(site)
        if neuron_site is None or neuron_site not in _sites_with_all_rows(study):
            remedy = f"list {neuron_site!r} in a group of `sites`" if neuron_site else "it is no residual site"
            raise ConfigError(f"similarity.neurons: site {site!r} is compared, but {remedy}; or set neurons: false")


def _check_compat(study: Study) -> None:
    """Check that each published procedure in the config applies to a compared cell: one tokenizer, and features."""
    cells = [(name, *cell) for name in study.pairs for cell in study.cells(name) if all(map(is_output_of_block, cell))]
    compared_cells = [cell for cell in cells if study.has_features(*cell) and study.role(*cell) == "compared"]
    for procedure in study.similarity.compat:
        if any(study.reproduces(procedure, *cell) for cell in compared_cells):
            continue
        if not compared_cells:
            raise ConfigError(
                f"similarity.compat: {procedure} compares features of blocks' outputs, but no compared pair has "
                "dictionaries there"
            )
        pair = study.pairs[compared_cells[0][0]]
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
    _check_all_rows(study, f"crosscoders.{alias}.site", crosscoder.site)
    for variant in expand({alias: crosscoder}).values():
        _check_variant(f"crosscoders.{alias}", crosscoder, variant)
    if crosscoder.dedicated and len(crosscoder.dedicated) != len(crosscoder.models):
        raise ConfigError(
            f"crosscoders.{alias}.dedicated: {len(crosscoder.dedicated)} shares for {len(crosscoder.models)} models; "
            "give one for each"
        )
    if crosscoder.shared + sum(crosscoder.dedicated) > 1:
        raise ConfigError(f"crosscoders.{alias}.dedicated: together with `shared` these shares exceed 1; lower them")
    _check_stream(study, f"crosscoders.{alias}.model_gpus", crosscoder)
    if len(crosscoder.models) == 2:
        return
    if "diff" in (crosscoder.objective, *crosscoder.sweep.objective):
        raise ConfigError(f"crosscoders.{alias}.objective: diff is x_B - x_A of two models; choose another one")
    tokenizers = [study.tokenizer(model) for model in crosscoder.models]
    if len(set(tokenizers)) > 1:
        models = zip(crosscoder.models, tokenizers, strict=True)
        other_model = next(model for model, tokenizer in models if tokenizer != tokenizers[0])
        raise ConfigError(
            f"crosscoders.{alias}.models: more than two models must share a tokenizer (these have "
            f"{', '.join(tokenizers)}); {_tokenizer_hint(tokenizers[0], other_model)}"
        )


def _check_stream(study: Study, key: str, crosscoder: Crosscoder) -> None:
    """Check that a stream's models, and no others, have GPUs of their own, in groups that a model is spread over."""
    if crosscoder.model_gpus and not crosscoder.stream:
        raise ConfigError(f"{key}: no model runs without `stream`; set that, or take this out")
    widest = max(crosscoder.models, key=study.gpus)
    gpus = study.gpus(widest)
    if crosscoder.stream and gpus > 1 and (not crosscoder.model_gpus or crosscoder.model_gpus % gpus):
        raise ConfigError(
            f"{key}: {widest} is spread over {gpus} GPUs while it streams; give a multiple of {gpus}, beside those of "
            f"`processes` (got {crosscoder.model_gpus})"
        )


def _check_variant(key: str, crosscoder: Crosscoder, variant: Crosscoder) -> None:
    """Check k of one crosscoder of a sweep, if it is trained with an objective that has a k."""
    if variant.weights is not None or UNUSED_KEY[variant.objective] == "k":
        return
    k_section = f"{key}.sweep" if crosscoder.sweep.k else key
    _check_active(f"{k_section}.k", variant.k, "n_latents", variant.n_latents)
    _check_active(f"{key}.k_initial", variant.k_initial, "n_latents", variant.n_latents)


def _tokenizer_hint(tokenizer: str, model: str) -> str:
    return f"if these are equal, set models.{model}.tokenizer: {tokenizer}"


def _check_site(study: Study, key: str, site: str) -> None:
    known = list(chain.from_iterable(study.sites_of(group) for group in study.sites))
    if site not in known:
        raise ConfigError(f"{key}: no group of `sites` lists {site!r}{suggestion(site, known)}")


def _check_all_rows(study: Study, key: str, site: str) -> None:
    if not study.has_all_rows(site):
        raise ConfigError(
            f"{key}: sites.{study.group(site)} stores the first rows of {site!r} only, which `means` alone can read; "
            "list the site in a group of all rows too"
        )


def _sites_with_all_rows(study: Study) -> set[str]:
    groups = [group for group in study.sites if not study.has_first_rows(group)]
    return set(chain.from_iterable(study.sites_of(group) for group in groups))
