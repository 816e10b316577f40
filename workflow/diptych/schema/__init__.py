"""The sections of a config as types: models, text, and what is done with them.

A field's docstring is its documentation (the JSON Schema and `config/README.md` are generated from these classes);
`RERUNS` names the first rule that a change of a key runs again (what reads its output follows), and the tests change
every key to see that it is so. `study.py` puts the sections together and says what each job gets of them.
"""

from diptych.schema.answers import Findings, Report
from diptych.schema.crosscoders import Crosscoder, Latents, Sweep
from diptych.schema.features import (
    Activations,
    Alignment,
    Dictionary,
    DirectoryDictionary,
    SaelensDictionary,
    SparsifyDictionary,
    TrainedDictionary,
)
from diptych.schema.models import (
    HubModel,
    Model,
    Plant,
    WheelModel,
    WheelPart,
)
from diptych.schema.pairs import Correlation, LinearMap, Pair, Pairing, Similarity, Steering, TemplateDiff
from diptych.schema.reruns import RERUNS
from diptych.schema.text import Corpus, CorpusText, HubText, Origin, Prompts, WheelText
from diptych.schema.values import Alias, Site

__all__ = [
    "RERUNS",
    "Activations",
    "Alias",
    "Alignment",
    "Corpus",
    "CorpusText",
    "Correlation",
    "Crosscoder",
    "Dictionary",
    "DirectoryDictionary",
    "Findings",
    "HubModel",
    "HubText",
    "Latents",
    "LinearMap",
    "Model",
    "Origin",
    "Pair",
    "Pairing",
    "Plant",
    "Prompts",
    "Report",
    "SaelensDictionary",
    "Similarity",
    "Site",
    "SparsifyDictionary",
    "Steering",
    "Sweep",
    "TemplateDiff",
    "TrainedDictionary",
    "WheelModel",
    "WheelPart",
    "WheelText",
]
