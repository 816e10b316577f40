"""All measures of one set of pairs with their nulls: what can be answered, what it is, what chance gives.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(120, 4))
    >>> pairs = Pairs(x=x, y=2.0 * x, rho=np.full(120, 0.5))
    >>> cells = score(pairs, Settings(repairings=99, nuclear_repairings=19), rng)
    >>> [(cell.measure, round(cell.value, 3), round(cell.null.p, 3)) for cell in cells if cell.measure == "procrustes"]
    [('procrustes', 1.0, 0.05)]

`similarity.compare` runs this for every subspace and writes the table. METHODS 3.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from diptych.runtime.errors import DiptychError
from diptych.similarity.measures import formulas as measures
from diptych.similarity.measures import nulls as nulls
from diptych.similarity.measures.formulas import DoubleArray, IntArray, RealArray, SingleArray, Space
from diptych.similarity.measures.nulls import Codes, Null
from diptych.storage import artifacts

CANONICAL = measures.CanonicalScores._fields
FAMILIES = ("cca", "procrustes", "cka", "rsa", "knn", "mmcs", "rho")
"""Families of measures, as the config names them."""
ROWS_PER_COMPONENT = 5
"""Pairs needed per kept component: with fewer, independent data scored .95 at p = 50 (METHODS 3.3)."""
NO_NULL = Null(float("nan"), float("nan"), float("nan"))


class Settings(NamedTuple):
    """What the scores depend on; see `compare`."""

    measures: tuple[str, ...] = FAMILIES
    variance: float = 0.99
    neighbours: tuple[int, ...] = (4, 10)
    repairings: int = 1000
    nuclear_repairings: int = 100
    rsa_rows: int = 5000
    rsa_null_rows: int = 2000
    subset_draws: int = 20
    min_pairs: int = 10
    compat: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Pairs:
    """The kept pairs of one pairing: row i of everything belongs to pair i.

    Attributes:
        x, y: [p, d_A], [p, d_B], decoder rows (or rows of W_out for neurons).
        rho: [p], held-out correlation of each pair; None where none was computed.
        mapped: [p, d_B], A's rows carried to B's space, for MMCS; None without a map.
        tokens_a, tokens_b: top activating tokens of each pair's latents, for semantic subspaces.
        codes: activations of the pairs' latents on the same tokens that judged `rho`, for its level: two [n, p], CSR
            or (neurons) arrays.
        circular: the pairing used the decoder cosine, so geometric scores repeat how pairs were chosen.
    """

    x: RealArray
    y: RealArray
    rho: RealArray | None = None
    mapped: RealArray | None = None
    tokens_a: Sequence[Sequence[str]] | None = None
    tokens_b: Sequence[Sequence[str]] | None = None
    codes: tuple[Codes, Codes] | None = None
    circular: bool = False

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: IntArray) -> "Pairs":
        """The pairs `index`, without their tokens."""
        return replace(
            self,
            x=self.x[index],
            y=self.y[index],
            rho=None if self.rho is None else self.rho[index],
            mapped=None if self.mapped is None else self.mapped[index],
            codes=None if self.codes is None else (self.codes[0][:, index], self.codes[1][:, index]),
            tokens_a=None,
            tokens_b=None,
        )

    def shuffled_partners(self, size: int, rng: np.random.Generator) -> "Pairs":
        """`size` random rows of A with `size` random rows of B as partners."""
        rows_a, rows_b = (rng.choice(len(self), size, replace=False) for _ in range(2))
        mapped = None if self.mapped is None else self.mapped[rows_a]
        return Pairs(x=self.x[rows_a], y=self.y[rows_b], mapped=mapped)

    def check(self, name: str) -> None:
        """Raise `DiptychError` if the parts differ in length or hold non-finite values."""
        parts = {
            "y": self.y,
            "rho": self.rho,
            "mapped": self.mapped,
            "tokens": self.tokens_a,
            "tokens_b": self.tokens_b,
        }
        for part, values in parts.items():
            if values is not None and len(values) != len(self):
                raise DiptychError(
                    f"similarity of {name}: {len(self)} rows of x but {len(values)} of {part}; pair them"
                )
        for part, rows in {"x": self.x, "y": self.y, "rho": self.rho, "mapped": self.mapped}.items():
            if rows is not None:
                artifacts.check_finite(np.asarray(rows), f"similarity of {name}: {part}")


@dataclass(frozen=True)
class Score:
    """One cell of the table before it is written; `void` says why the value is NaN."""

    measure: str
    value: float
    null: Null = NO_NULL
    subsets: DoubleArray = field(default_factory=lambda: np.zeros(0))
    void: str = ""


@dataclass(frozen=True)
class Clouds:
    """The two clouds of some pairs and what several measures share, each made when first asked for."""

    pairs: Pairs
    settings: Settings
    rsa_index: IntArray

    @cached_property
    def a(self) -> Space:
        """A's centred rows."""
        return measures.space(self.pairs.x, self.settings.variance)

    @cached_property
    def b(self) -> Space:
        """B's centred rows."""
        return measures.space(self.pairs.y, self.settings.variance)

    @cached_property
    def near(self) -> tuple[IntArray, IntArray]:
        """Neighbour lists of both, [p, largest k that p allows]."""
        k = max(self.neighbours)
        return measures.nearest(self.a.x, k), measures.nearest(self.b.x, k)

    @property
    def neighbours(self) -> tuple[int, ...]:
        """The k with more than 2 k pairs: below, chance alone makes neighbour lists overlap by half."""
        return tuple(k for k in self.settings.neighbours if len(self.pairs) > 2 * k)

    @cached_property
    def best_cosines(self) -> tuple[DoubleArray, DoubleArray]:
        """Maximum cosine of each mapped row of A to B's rows, and its null level; needs `mapped`."""
        return measures.mmcs(np.asarray(self.pairs.mapped), self.pairs.y)

    def ranks(self, rows: int) -> tuple[SingleArray, SingleArray]:
        """Rank matrices of the dissimilarities among `rows` of the rows drawn for RSA."""
        index = self.rsa_index[:rows]
        return measures.distance_ranks(self.a.x[index]), measures.distance_ranks(self.b.x[index])


def clouds(pairs: Pairs, settings: Settings, rng: np.random.Generator) -> Clouds:
    """Prepare pairs; `rsa_rows` of them, drawn at random, serve RSA and the first of those its null."""
    return Clouds(pairs, settings, rng.permutation(len(pairs))[: settings.rsa_rows])


def names(settings: Settings) -> list[str]:
    """All measures that are asked for, in the order of the table."""
    compat = ("svcca_lan2024",) if "lan2024" in settings.compat else ()
    found = {
        "cca": (*(name for name in CANONICAL if name != "procrustes"), *compat),
        "procrustes": ("procrustes",),
        "cka": ("cka", "cka_debiased"),
        "rsa": ("rsa",),
        "knn": tuple(f"knn_{kind}_{k}" for k in settings.neighbours for kind in ("jaccard", "mutual")),
        "mmcs": ("mmcs",),
        "rho": ("mean_rho",),
    }
    return [name for family in FAMILIES if family in settings.measures for name in found[family]]


def void_reasons(both: Clouds) -> dict[str, str]:
    """Measures that these pairs cannot answer, each with why (METHODS 3.3); those not asked for are among them."""
    p, settings = len(both.pairs), both.settings
    requested = names(settings)
    every = names(settings._replace(measures=FAMILIES))
    void = {name: "not asked for" for name in every if name not in requested}
    if p < settings.min_pairs:
        return void | dict.fromkeys(requested, f"{p} pairs, fewer than min_pairs = {settings.min_pairs}")
    if both.pairs.rho is None:
        void["mean_rho"] = "no correlations given"
    if both.pairs.mapped is None:
        void["mmcs"] = "no map to B's space given"
    for k in settings.neighbours:
        if k not in both.neighbours:
            void |= dict.fromkeys((f"knn_jaccard_{k}", f"knn_mutual_{k}"), f"{p} pairs, not more than 2 k = {2 * k}")
    if min(both.a.k, both.b.k) == 0:
        return void | {name: "all rows of one side are alike" for name in every if name != "mean_rho"}
    needed = ROWS_PER_COMPONENT * (both.a.k + both.b.k)
    if p < needed:
        void |= dict.fromkeys((*CANONICAL, "cka"), f"{p} pairs, fewer than 5 (k_A + k_B) = {needed}")
    return void


def values(both: Clouds, void: Mapping[str, str], rsa_rows: int) -> dict[str, float]:
    """Every measure that is not void, except `mean_rho`."""
    by_measure: dict[str, float] = {}
    if not void.keys() >= set(CANONICAL):
        by_measure |= measures.canonical_scores(both.a.u.T @ both.b.u, both.a, both.b)._asdict()
    if "cka" not in void:
        by_measure["cka"] = measures.cka(both.a, both.b)
    if "cka_debiased" not in void:
        by_measure["cka_debiased"] = measures.cka_debiased(both.a, both.b)
    if "rsa" not in void:
        by_measure["rsa"] = measures.rsa(*both.ranks(rsa_rows))
    if "lan2024" in both.settings.compat and "svcca_lan2024" not in void:
        by_measure["svcca_lan2024"] = measures.one_component_score(both.a, both.b)
    for k in both.neighbours:
        if f"knn_jaccard_{k}" not in void:
            common = measures.common_neighbours(both.near[0][:, :k], both.near[1][:, :k])
            by_measure[f"knn_jaccard_{k}"] = measures.knn_jaccard(common, k)
            by_measure[f"knn_mutual_{k}"] = measures.knn_mutual(common, k)
    if "mmcs" not in void:
        by_measure["mmcs"] = float(both.best_cosines[0].mean())
    return {name: value for name, value in by_measure.items() if name not in void}


def exact_nulls(both: Clouds, void: Mapping[str, str]) -> dict[str, Null]:
    """Nulls with closed forms: CKA, mean squared canonical correlation, the levels of MMCS and of mean rho."""
    nulls_of: dict[str, Null] = {}
    if "cka" not in void:
        nulls_of["cka"] = nulls.cka_null(both.a, both.b)
    if "mean_squared_cc" not in void:
        nulls_of["mean_squared_cc"] = nulls.mean_squared_cc_null(both.a, both.b)
    if "cka_debiased" not in void:
        nulls_of["cka_debiased"] = nulls.cka_debiased_null(both.a, both.b)
    if "mmcs" not in void:
        level = both.best_cosines[1]
        nulls_of["mmcs"] = Null(float(level.mean()), float(level.std(ddof=1) / np.sqrt(len(level))), float("nan"))
    if both.pairs.codes is not None and "mean_rho" not in void:
        nulls_of["mean_rho"] = nulls.mean_rho_null(*both.pairs.codes)
    return nulls_of


def repaired_nulls(
    both: Clouds, value: Mapping[str, float], void: Mapping[str, str], rng: np.random.Generator
) -> dict[str, Null]:
    """Nulls by re-pairing: nuclear-norm measures, RSA (on fewer rows, hence a wider null), neighbour lists."""
    settings = both.settings
    nulls_of: dict[str, Null] = {}
    if value.keys() & set(CANONICAL):
        draws = nulls.canonical_draws(both.a, both.b, settings.nuclear_repairings, rng)
        for column, name in enumerate(CANONICAL):
            if name in value:
                nulls_of[name] = nulls.from_draws(value[name], draws[:, column])
    if "rsa" in value and np.isfinite(value["rsa"]):
        repaired = nulls.rsa_draws(*both.ranks(settings.rsa_null_rows), settings.repairings, rng)
        nulls_of["rsa"] = nulls.from_draws(value["rsa"], repaired)
    if "svcca_lan2024" in value:
        repaired = nulls.one_component_draws(both.a, both.b, settings.repairings, rng)
        share = float(np.mean(repaired >= value["svcca_lan2024"]))
        nulls_of["svcca_lan2024"] = nulls.from_draws(value["svcca_lan2024"], repaired)._replace(p=share)
    near = tuple(k for k in both.neighbours if f"knn_jaccard_{k}" not in void)
    if near:
        overlap = nulls.knn_draws(*both.near, near, settings.repairings, rng)
        for index, k in enumerate(near):
            for kind, column in (("jaccard", 0), ("mutual", 1)):
                name = f"knn_{kind}_{k}"
                nulls_of[name] = nulls.from_draws(value[name], overlap[:, index, column])
    return nulls_of


def subset_values(pairs: Pairs, size: int, settings: Settings, rng: np.random.Generator) -> dict[str, DoubleArray]:
    """Scores of random subsets of `size` rows with new random partners, [subset_draws] a measure; NaN where void."""
    draws_of: dict[str, DoubleArray] = {
        name: np.full(settings.subset_draws, np.nan) for name in names(settings) if name != "mean_rho"
    }
    for draw in range(settings.subset_draws):
        both = clouds(pairs.shuffled_partners(size, rng), settings, rng)
        for name, value in values(both, void_reasons(both), settings.rsa_null_rows).items():
            draws_of[name][draw] = value
    return draws_of


def score(pairs: Pairs, settings: Settings, rng: np.random.Generator, pool: Pairs | None = None) -> list[Score]:
    """All measures of some pairs with their nulls, in the order of `names`.

    Args:
        pairs: the pairs to score.
        settings: see `compare`.
        rng: for re-pairings and subsets.
        pool: where random subsets of the same size are drawn from; None draws none.
    """
    both = clouds(pairs, settings, rng)
    void = void_reasons(both)
    value = values(both, void, settings.rsa_rows)
    if pairs.rho is not None and "mean_rho" not in void:
        value["mean_rho"] = float(np.mean(pairs.rho))
    if "rsa" in value and np.isnan(value["rsa"]):
        void["rsa"] = "all dissimilarities of one side are equal"
    null = repaired_nulls(both, value, void, rng) | exact_nulls(both, void)
    null_draws = (
        subset_values(pool, len(pairs), settings, rng) if pool is not None and len(pairs) >= settings.min_pairs else {}
    )
    none = np.zeros(0)
    return [
        Score(
            name, value.get(name, float("nan")), null.get(name, NO_NULL), null_draws.get(name, none), void.get(name, "")
        )
        for name in names(settings)
    ]
