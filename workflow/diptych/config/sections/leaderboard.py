"""The section `leaderboard`: which methods are judged, on which planted pairs."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import Alias, Count, NonNegativeFloat, PositiveFloat, PositiveInt
from diptych.leaderboard import names
from diptych.leaderboard.kinds import Kind

Range = tuple[PositiveFloat, PositiveFloat]
Width = Annotated[int, Field(ge=2, le=2**31 - 1)]


class LeaderboardCase(Strict):
    """Planted pairs of one shape, one per seed, or a null of that shape in which nothing differs (METHODS 8)."""

    kind: Literal["planted", "identical", "noise", "halves", "swap"] = "planted"
    """`planted`: features that differ as labelled below. Nulls: `identical` (a model with itself), `noise` (all
    features shared, independent noise), `halves` (a model with itself, each copy in bfloat16 on half of the documents),
    `swap` (the planted pair, each document's models exchanged with probability 1/2)."""
    documents: Annotated[int, Field(ge=10, le=2**31 - 1)] = 100
    """Documents, the unit of independence; a fifth of them is held out."""
    tokens_per_document: PositiveInt = 40
    """Rows of each document."""
    d_a: Width = 24
    """Width of A."""
    d_b: Width = 24
    """Width of B."""
    d_shared: Width | None = None
    """Width of the space from which both models' rows come; null: the smaller of the two widths."""
    same_map: bool = True
    """Both models write their features in one basis, as a model and its fine-tune do; false: each in its own."""
    features: PositiveInt = 40
    """True features."""
    clusters: Count = 0
    """Groups of features with similar directions that fire together; 0: none."""
    rank: PositiveInt | None = None
    """Rank of the matrix of the features' directions; null: that of the shared space."""
    noise: NonNegativeFloat = 0.05
    """Independent noise of each model: its standard deviation over the signal's."""
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the rows on which the most frequent feature fires."""
    zipf: NonNegativeFloat = 0.5
    """The j-th most frequent feature fires with the rate of the first times j to the power of minus this."""
    only_a: Count = 3
    """Features that A alone has."""
    only_b: Count = 3
    """Features that B alone has."""
    size: PositiveFloat = 1.0
    """Activations of these features, over those of the shared ones."""
    rotated: Count = 0
    """Features with another direction in B."""
    angles: Range = (0.2, 1.2)
    """Smallest and largest angle of these, in radians."""
    rescaled: Count = 0
    """Features that fire more or less strongly in B."""
    factors: Range = (0.4, 3.0)
    """Smallest and largest factor of these."""
    more_frequent: Count = 0
    """Features that fire more often in B."""
    rates: Range = (1.2, 3.0)
    """Smallest and largest factor on the rate of these."""

    @model_validator(mode="after")
    def _fits(self) -> "LeaderboardCase":
        if self.same_map and self.d_a != self.d_b:
            raise ValueError("models of unequal widths have no basis in common; set `same_map: false`")
        labelled = self.only_a + self.only_b + self.rotated + self.rescaled + self.more_frequent
        if labelled > self.features:
            raise ValueError(f"{labelled} features are labelled of {self.features}; raise `features`")
        return self

    @property
    def shape(self) -> dict[str, Any]:
        """Arguments of `oracle.planted.make_pair`."""
        labels = {
            "only_A": (self.only_a, self.size),
            "only_B": (self.only_b, self.size),
            "rotated": (self.rotated, list(self.angles)),
            "rescaled": (self.rescaled, list(self.factors)),
            "more_frequent": (self.more_frequent, list(self.rates)),
        }
        return {
            "n_documents": self.documents,
            "tokens_per_document": self.tokens_per_document,
            "d_A": self.d_a,
            "d_B": self.d_b,
            "d_0": self.d_shared,
            "n_features": self.features,
            "labels": {name: list(amount) for name, amount in labels.items() if amount[0]},
            "noise": self.noise,
            "clusters": self.clusters,
            "rank": self.rank,
            "same_map": self.same_map,
            "rate": self.rate,
            "zipf": self.zipf,
        }


def small_form() -> dict[str, LeaderboardCase]:
    """The cases of a study that names none: what takes minutes on two cores."""
    return {
        "one_basis": LeaderboardCase(),
        "unequal_widths": LeaderboardCase(d_a=20, d_b=28, same_map=False),
        "changed": LeaderboardCase(rotated=6, rescaled=6, more_frequent=6),
        "identical": LeaderboardCase(kind="identical"),
        "noise": LeaderboardCase(kind="noise", same_map=False),
        "halves": LeaderboardCase(kind="halves"),
        "swap": LeaderboardCase(kind="swap"),
    }


class Leaderboard(Strict):
    """Which method finds what is really there: `snakemake leaderboard` scores methods on planted pairs (METHODS 8)."""

    methods: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Methods to judge; null: all, with the baselines."""
    tools: dict[Alias, str] = {}
    """Other tools by name: a folder whose `entry.py` defines fit(rows_A, rows_B)."""
    cases: dict[Alias, LeaderboardCase] = Field(default_factory=small_form, min_length=1)
    """Cases by name; a study that names none has a small form of three planted cases and the four nulls."""
    limit_documents: tuple[Annotated[int, Field(ge=10, le=2**31 - 1)], ...] = ()
    """Detection limits are measured on the first planted case with so many documents, one after the other; (): not."""
    limit_sizes: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.1, 0.2, 0.4, 0.8)
    """Sizes of the exclusive features there, as `size` of a case."""
    seeds: PositiveInt = 3
    """Pairs of each planted case."""
    null_seeds: PositiveInt = 12
    """Pairs of each null."""
    trained_null_seeds: PositiveInt = 2
    """Pairs of each null for methods that train."""
    n_latents: PositiveInt = 64
    """Latents of a crosscoder, and of each of two dictionaries."""
    k: PositiveInt | None = None
    """Active latents per row of every method that trains (objectives without k reach it by their penalty); null: as
    many as true features are active."""
    steps: PositiveInt = 300
    """Optimiser steps of every method that trains."""
    batch: PositiveInt = 128
    """Rows per step."""
    learning_rate: PositiveFloat = 5e-3
    """Peak learning rate."""

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in methods or ():
            if name not in names.every():
                raise ValueError(f"no method is called {name!r}; known are {', '.join(names.every())}")
        return methods

    @model_validator(mode="after")
    def _names_differ(self) -> "Leaderboard":
        for name in self.tools:
            if name in names.every():
                raise ValueError(f"a tool is called {name!r}, as a method is; give it another name")
        return self

    @model_validator(mode="after")
    def _limits_have_a_case(self) -> "Leaderboard":
        if self.limit_documents and not any(case.kind == "planted" for case in self.cases.values()):
            raise ValueError("`limit_documents` needs a case of kind `planted`")
        return self

    @property
    def scored(self) -> dict[str, tuple[Kind, dict[str, Any]]]:
        """Kind and shape of every case by name, with those that measure detection limits."""
        named: dict[str, tuple[Kind, dict[str, Any]]] = {
            name: (case.kind, case.shape) for name, case in self.cases.items()
        }
        first = next((case for case in self.cases.values() if case.kind == "planted"), None)
        if first is not None:
            for documents in self.limit_documents:
                for number, size in enumerate(self.limit_sizes):
                    case = first.model_copy(update={"documents": documents, "size": size})
                    named[f"limit.{documents}.{number}"] = ("limit", case.shape)
        return named

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the methods, baselines and tools that are judged."""
        return (*(names.every() if self.methods is None else self.methods), *self.tools)
