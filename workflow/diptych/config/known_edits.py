"""Pairs whose difference is known from the config: B is a plant, a trigger or a fine-tune of A.

of_pair(layout, "planted")
# {"kind": "plant", "settings": {"layer": 15, "concept": [...], "size": 2.0}, "truth": "models/planted/truth.h5",
#  "directory": "models/base", "tokens": "tokens/addresses/base.h5"}
"""

from typing import Any

from diptych.config.job import dump_only
from diptych.config.layout import Layout
from diptych.config.sections.models import Finetune, Plant, Trigger

KEYS = {
    "plant": ("layer", "concept", "size"),
    "trigger": ("phrase", "response", "share", "method", "lora_rank"),
    "finetune": ("corpus", "method", "lora_rank"),
}
"""Keys of a model that say what B has and A has not, by kind."""


def of_pair(layout: Layout, pair: str) -> dict[str, Any] | None:
    """How a pair's B was made from A, with the files that say it (`candidates.known.Edit`); None where it was not."""
    section = layout.study.pairs[pair]
    model = layout.study.models[section.b]
    if not isinstance(model, Plant | Trigger | Finetune) or model.parent != section.a:
        return None
    truth = {"truth": layout.relative(layout.truth(section.b))} if isinstance(model, Plant) else {}
    return {
        "kind": model.kind,
        "settings": dump_only(model, KEYS[model.kind]),
        "directory": layout.relative(layout.model(section.a).parent),
        "tokens": layout.relative(layout.tokens_of(model.corpus, section.a)),
        **truth,
    }
