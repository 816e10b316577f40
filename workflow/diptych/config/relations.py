"""How the models of each pair are related, and which pairs are repeats of one relation (METHODS 5).

    [relation.name for relation in relations(study)]
    # ["identical", "fine-tuned", "distilled by KL", "distilled by the Jacobian loss"]

A relation is shown by its pairs: several where models were made in the same way from other seeds.
"""

from dataclasses import dataclass
from typing import Any

from diptych.config.sections.models import Adapter, Distill, Plant, RandomModel, Rerandomize, Tuning
from diptych.config.study import Study
from diptych.storage.canonical import canonical_json

LOSSES = {"kl": "KL", "jacobian": "the Jacobian loss", "hidden": "hidden states"}
"""Loss of a distillation -> its name in that of a relation."""
ORDER = ("identical", "fine-tuned", "scale", "distilled", "planted", "other", "random")
"""Kinds of relations in the order of the table."""
MADE_ALIKE = frozenset({"seed", "checkpoint_every", "micro_batch", "dtype"})
"""Keys of a derived model that do not tell how it was made from how a repeat was made."""


@dataclass(frozen=True)
class Relation:
    """Pairs whose models are related in one way.

    Attributes:
        name: what the table calls it, unique in a study.
        kind: as in `Pair.relation`.
        pairs: their aliases; several if their models B differ in the seed alone.
        budget: equal for students that differ in their loss alone: same blocks, initial weights, text and steps; ""
            for other models.
        by: losses of a student; () for other models.
    """

    name: str
    kind: str
    pairs: tuple[str, ...]
    budget: str
    by: tuple[str, ...]


def relations(study: Study) -> list[Relation]:
    """The relations of which a pair has a crosscoder, in the order of `ORDER`; none if there are fewer than two."""
    crosscoders = {(section.models, section.corpus) for section in study.crosscoders.values()}
    groups: dict[str, list[str]] = {}
    for alias, pair in study.pairs.items():
        if alias in study.compared_pairs and not pair.sites_b:
            groups.setdefault(_repeated(study, alias), []).append(alias)
    found = [
        _relation(study, tuple(aliases))
        for aliases in groups.values()
        if any(
            ((study.pairs[alias].a, study.pairs[alias].b), study.pairs[alias].corpus) in crosscoders
            for alias in aliases
        )
    ]
    names = [relation.name for relation in found]
    named = [
        relation if names.count(relation.name) == 1 else _renamed(relation, f"{relation.name}: {relation.pairs[0]}")
        for relation in found
    ]
    return sorted(named, key=lambda relation: ORDER.index(relation.kind)) if len(named) > 1 else []


def kind_of(study: Study, pair: str) -> str:
    """How B is related to A: the pair's own `relation`, or what B was made as."""
    section = study.pairs[pair]
    if section.relation is not None:
        return section.relation
    if section.a == section.b:
        return "identical"
    model = study.models[section.b]
    if isinstance(model, Rerandomize | RandomModel):
        return "random"
    if section.a not in study.lineage(section.b):
        return "other"
    made = {"fine-tuned": (Tuning, Adapter), "distilled": (Distill,), "planted": (Plant,)}
    return next((kind for kind, classes in made.items() if isinstance(model, classes)), "other")


def _relation(study: Study, aliases: tuple[str, ...]) -> Relation:
    kind, model = kind_of(study, aliases[0]), study.models[study.pairs[aliases[0]].b]
    by = tuple(name for name in LOSSES if getattr(model.loss, name)) if isinstance(model, Distill) else ()
    is_student = kind == "distilled" and isinstance(model, Distill)
    budget = canonical_json([*_place(study, aliases[0]), _settings(model, MADE_ALIKE | {"loss"})])
    name = f"distilled by {' and '.join(LOSSES[loss] for loss in by)}" if is_student else kind
    return Relation(name, kind, aliases, budget if is_student else "", by if is_student else ())


def _repeated(study: Study, alias: str) -> str:
    """Equal for pairs that differ in the seed of their model B alone."""
    model = study.models[study.pairs[alias].b]
    own: Any = _settings(model, MADE_ALIKE) if hasattr(model, "parent") else study.pairs[alias].b
    return canonical_json([*_place(study, alias), kind_of(study, alias), own])


def _place(study: Study, alias: str) -> list[Any]:
    pair = study.pairs[alias]
    return [pair.a, pair.corpus, list(pair.sites), pair.rows if isinstance(pair.rows, str) else list(pair.rows)]


def _settings(model: Any, exclude: frozenset[str]) -> dict[str, Any]:
    settings: dict[str, Any] = model.model_dump(mode="json", exclude=set(exclude))
    return settings


def _renamed(relation: Relation, name: str) -> Relation:
    return Relation(name, relation.kind, relation.pairs, relation.budget, relation.by)
