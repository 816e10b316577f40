"""All similarity measures of one set of pairs, with their nulls and the reasons why some cannot be computed.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(120, 4))
    >>> pairs = Pairs(x=x, y=2.0 * x, rho=np.full(120, 0.5))
    >>> results = score(pairs, Settings(repairings=99, nuclear_repairings=19), rng)
    >>> [(s.measure, round(s.value, 3), round(s.null.p, 3)) for s in results if s.measure == "procrustes"]
    [('procrustes', 1.0, 0.05)]

`similarity.stage.compare` does this for every subspace and writes the table. METHODS 3.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from diptych.runtime.errors import DiptychError
from diptych.similarity.measures import formulas, nulls
from diptych.similarity.measures.formulas import DoubleArray, IntArray, RealArray, SingleArray, Space
from diptych.similarity.measures.nulls import Codes, Null
from diptych.storage import artifacts

CANONICAL = formulas.CanonicalScores._fields
FAMILIES = ("cca", "procrustes", "cka", "rsa", "knn", "mmcs", "rho")
"""Families of measures, as the config names them."""
ROWS_PER_COMPONENT = 5
"""Pairs needed per component: with fewer, independent data scored .95 at p = 50 (METHODS 3.3)."""
NO_NULL = Null(float("nan"), float("nan"), float("nan"))


class Settings(NamedTuple):
    """Parameters of the scores, see `stage.compare`."""

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
    """The matched pairs of one pairing; row i of every array belongs to pair i.

    Attributes:
        x, y: [p, d_A], [p, d_B], decoder rows (or rows of W_out for neurons).
        rho: [p], held-out correlation of each pair; None where none was computed.
        mapped: [p, d_B], A's rows mapped to B's space, for MMCS; None without a map.
        tokens_a, tokens_b: top activating tokens of each pair's latents, for semantic subspaces.
        codes: activations of the pairs' latents on the tokens behind `rho`, for its null: two [n, p], CSR or
            (neurons) arrays.
        circular: the pairing used the decoder cosine, so geometric scores of its pairs are circular.
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
    """One measure of one set of pairs.

    Attributes:
        measure: its name.
        value: NaN where it cannot be computed.
        null: over re-pairings.
        subsets: values of random subsets of the same size, [subset_draws] or empty.
        void_reason: why `value` is NaN, else "".
    """

    measure: str
    value: float
    null: Null = NO_NULL
    subsets: DoubleArray = field(default_factory=lambda: np.zeros(0))
    void_reason: str = ""


@dataclass(frozen=True)
class Clouds:
    """The two point clouds of some pairs, with the intermediate results that measures share, computed on first use."""

    pairs: Pairs
    settings: Settings
    rsa_index: IntArray

    @cached_property
    def a(self) -> Space:
        """A's centred rows."""
        return formulas.space(self.pairs.x, self.settings.variance)

    @cached_property
    def b(self) -> Space:
        """B's centred rows."""
        return formulas.space(self.pairs.y, self.settings.variance)

    @cached_property
    def near(self) -> tuple[IntArray, IntArray]:
        """Neighbour lists of both clouds, [p, largest k that p allows]."""
        k = max(self.neighbours)
        return formulas.nearest(self.a.x, k), formulas.nearest(self.b.x, k)

    @property
    def neighbours(self) -> tuple[int, ...]:
        """The k with more than 2 k pairs: below, chance alone makes neighbour lists overlap by half."""
        return tuple(k for k in self.settings.neighbours if len(self.pairs) > 2 * k)

    @cached_property
    def best_cosines(self) -> tuple[DoubleArray, DoubleArray]:
        """Maximum cosine of each mapped row of A to B's rows, and its null level; needs `mapped`."""
        return formulas.mmcs(np.asarray(self.pairs.mapped), self.pairs.y)

    def ranks(self, rows: int) -> tuple[SingleArray, SingleArray]:
        """Rank matrices of the dissimilarities among `rows` of the rows drawn for RSA."""
        index = self.rsa_index[:rows]
        return formulas.distance_ranks(self.a.x[index]), formulas.distance_ranks(self.b.x[index])


def make_clouds(pairs: Pairs, settings: Settings, rng: np.random.Generator) -> Clouds:
    """Clouds of some pairs; RSA uses `rsa_rows` of them, drawn at random, and its null the first of those."""
    return Clouds(pairs, settings, rng.permutation(len(pairs))[: settings.rsa_rows])


def measure_names(settings: Settings) -> list[str]:
    """Names of the measures in `settings`, in the order of the table."""
    compat = ("svcca_lan2024",) if "lan2024" in settings.compat else ()
    by_family = {
        "cca": (*(name for name in CANONICAL if name != "procrustes"), *compat),
        "procrustes": ("procrustes",),
        "cka": ("cka", "cka_debiased"),
        "rsa": ("rsa",),
        "knn": tuple(f"knn_{kind}_{k}" for k in settings.neighbours for kind in ("jaccard", "mutual")),
        "mmcs": ("mmcs",),
        "rho": ("mean_rho",),
    }
    return [name for family in FAMILIES if family in settings.measures for name in by_family[family]]


def void_reasons(clouds: Clouds) -> dict[str, str]:
    """Measures that are not computed on these pairs, by name, each with its reason (METHODS 3.3)."""
    p, settings = len(clouds.pairs), clouds.settings
    requested = measure_names(settings)
    every = measure_names(settings._replace(measures=FAMILIES))
    void = {name: "not asked for" for name in every if name not in requested}
    if p < settings.min_pairs:
        return void | dict.fromkeys(requested, f"{p} pairs, fewer than min_pairs = {settings.min_pairs}")
    if clouds.pairs.rho is None:
        void["mean_rho"] = "no correlations given"
    if clouds.pairs.mapped is None:
        void["mmcs"] = "no map to B's space given"
    for k in settings.neighbours:
        if k not in clouds.neighbours:
            void |= dict.fromkeys((f"knn_jaccard_{k}", f"knn_mutual_{k}"), f"{p} pairs, not more than 2 k = {2 * k}")
    if min(clouds.a.k, clouds.b.k) == 0:
        return void | {name: "all rows of one side are alike" for name in every if name != "mean_rho"}
    needed = ROWS_PER_COMPONENT * (clouds.a.k + clouds.b.k)
    if p < needed:
        void |= dict.fromkeys((*CANONICAL, "cka"), f"{p} pairs, fewer than 5 (k_A + k_B) = {needed}")
    return void


def measure_values(clouds: Clouds, void: Mapping[str, str], rsa_rows: int) -> dict[str, float]:
    """Value of every measure that is not in `void`, except `mean_rho`."""
    by_measure: dict[str, float] = {}
    if not void.keys() >= set(CANONICAL):
        by_measure |= formulas.canonical_scores(clouds.a.u.T @ clouds.b.u, clouds.a, clouds.b)._asdict()
    if "cka" not in void:
        by_measure["cka"] = formulas.cka(clouds.a, clouds.b)
    if "cka_debiased" not in void:
        by_measure["cka_debiased"] = formulas.cka_debiased(clouds.a, clouds.b)
    if "rsa" not in void:
        by_measure["rsa"] = formulas.rsa(*clouds.ranks(rsa_rows))
    if "lan2024" in clouds.settings.compat and "svcca_lan2024" not in void:
        by_measure["svcca_lan2024"] = formulas.one_component_score(clouds.a, clouds.b)
    for k in clouds.neighbours:
        if f"knn_jaccard_{k}" not in void:
            common = formulas.common_neighbours(clouds.near[0][:, :k], clouds.near[1][:, :k])
            by_measure[f"knn_jaccard_{k}"] = formulas.knn_jaccard(common, k)
            by_measure[f"knn_mutual_{k}"] = formulas.knn_mutual(common, k)
    if "mmcs" not in void:
        by_measure["mmcs"] = float(clouds.best_cosines[0].mean())
    return {name: value for name, value in by_measure.items() if name not in void}


def exact_nulls(clouds: Clouds, void: Mapping[str, str]) -> dict[str, Null]:
    """Nulls with closed forms: CKA, mean squared canonical correlation, the levels of MMCS and of mean rho."""
    nulls_of: dict[str, Null] = {}
    if "cka" not in void:
        nulls_of["cka"] = nulls.cka_null(clouds.a, clouds.b)
    if "mean_squared_cc" not in void:
        nulls_of["mean_squared_cc"] = nulls.mean_squared_cc_null(clouds.a, clouds.b)
    if "cka_debiased" not in void:
        nulls_of["cka_debiased"] = nulls.cka_debiased_null(clouds.a, clouds.b)
    if "mmcs" not in void:
        level = clouds.best_cosines[1]
        nulls_of["mmcs"] = Null(float(level.mean()), float(level.std(ddof=1) / np.sqrt(len(level))), float("nan"))
    if clouds.pairs.codes is not None and "mean_rho" not in void:
        nulls_of["mean_rho"] = nulls.mean_rho_null(*clouds.pairs.codes)
    return nulls_of


def repaired_nulls(
    clouds: Clouds, value: Mapping[str, float], void: Mapping[str, str], rng: np.random.Generator
) -> dict[str, Null]:
    """Nulls by re-pairing: nuclear-norm measures, RSA (on fewer rows, hence a wider null), neighbour lists."""
    settings = clouds.settings
    nulls_of: dict[str, Null] = {}
    if value.keys() & set(CANONICAL):
        draws = nulls.canonical_draws(clouds.a, clouds.b, settings.nuclear_repairings, rng)
        for column, name in enumerate(CANONICAL):
            if name in value:
                nulls_of[name] = nulls.from_draws(value[name], draws[:, column])
    if "rsa" in value and np.isfinite(value["rsa"]):
        repaired = nulls.rsa_draws(*clouds.ranks(settings.rsa_null_rows), settings.repairings, rng)
        nulls_of["rsa"] = nulls.from_draws(value["rsa"], repaired)
    if "svcca_lan2024" in value:
        repaired = nulls.one_component_draws(clouds.a, clouds.b, settings.repairings, rng)
        share = float(np.mean(repaired >= value["svcca_lan2024"]))
        nulls_of["svcca_lan2024"] = nulls.from_draws(value["svcca_lan2024"], repaired)._replace(p=share)
    ks = tuple(k for k in clouds.neighbours if f"knn_jaccard_{k}" not in void)
    if ks:
        overlap = nulls.knn_draws(*clouds.near, ks, settings.repairings, rng)
        for index, k in enumerate(ks):
            for kind, column in (("jaccard", 0), ("mutual", 1)):
                name = f"knn_{kind}_{k}"
                nulls_of[name] = nulls.from_draws(value[name], overlap[:, index, column])
    return nulls_of


def subset_values(pairs: Pairs, size: int, settings: Settings, rng: np.random.Generator) -> dict[str, DoubleArray]:
    """Scores of random subsets of `size` rows with new random partners, [subset_draws] per measure; NaN if void."""
    draws_of: dict[str, DoubleArray] = {
        name: np.full(settings.subset_draws, np.nan) for name in measure_names(settings) if name != "mean_rho"
    }
    for draw in range(settings.subset_draws):
        clouds = make_clouds(pairs.shuffled_partners(size, rng), settings, rng)
        for name, value in measure_values(clouds, void_reasons(clouds), settings.rsa_null_rows).items():
            draws_of[name][draw] = value
    return draws_of


def score(pairs: Pairs, settings: Settings, rng: np.random.Generator, pool: Pairs | None = None) -> list[Score]:
    """All measures of some pairs with their nulls, in the order of `measure_names`.

    Args:
        pairs: the pairs to score.
        settings: see `stage.compare`.
        rng: for re-pairings and subsets.
        pool: pairs from which random subsets of the same size are drawn; None draws none.
    """
    clouds = make_clouds(pairs, settings, rng)
    void = void_reasons(clouds)
    value = measure_values(clouds, void, settings.rsa_rows)
    if pairs.rho is not None and "mean_rho" not in void:
        value["mean_rho"] = float(np.mean(pairs.rho))
    if "rsa" in value and np.isnan(value["rsa"]):
        void["rsa"] = "all dissimilarities of one side are equal"
    null = repaired_nulls(clouds, value, void, rng) | exact_nulls(clouds, void)
    null_draws = (
        subset_values(pool, len(pairs), settings, rng) if pool is not None and len(pairs) >= settings.min_pairs else {}
    )
    none = np.zeros(0)
    return [
        Score(
            name, value.get(name, float("nan")), null.get(name, NO_NULL), null_draws.get(name, none), void.get(name, "")
        )
        for name in measure_names(settings)
    ]
