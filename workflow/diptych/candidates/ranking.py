"""What each method puts forward as a difference, and how far each candidate clears what a finding must reach.

A method's file holds many directions, features or latents. Each becomes an offer in common terms (side, effect,
held-out effect, p), and the offers of one pair and method are a family with three legs to stand on (METHODS 9):

    q         its Benjamini-Hochberg q in the family is at most `threshold.q`
    held out  on documents that had no part in finding it the effect has the same sign and at least half the size
    effect    |effect| is at least `threshold.min_effect`

    ranking = rank(linear_map_offers(files), Threshold(q=0.05, min_effect=0.1))
    ranking.findings                 # the candidates that stand, the one with the strongest weakest leg first
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from diptych.dictionaries import sae
from diptych.statistics import resampling
from diptych.storage import artifacts
from diptych.text import contexts

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Method = Literal["linear_map", "pairing", "crosscoder", "template"]
Kind = Literal["token", "direction", "feature", "latent"]
SideName = Literal["A", "B"]

SIDES: tuple[SideName, SideName] = ("A", "B")
NAN = float("nan")
EXCLUSIVE_NU = (0.2, 0.5)
"""Largest |nu_err| and |nu_rec| of a latent that the other model has not (METHODS 5)."""
SAME_DIRECTION = 0.7
"""|cos| from which two directions count as one (METHODS 8)."""
Q = 0.05
MIN_EFFECT: Mapping[Method, float] = {"linear_map": 0.1, "pairing": 0.5, "crosscoder": 0.2, "template": 0.5}
"""Usual thresholds of a finding: its q, and the least |effect| of each method in its own unit."""
SAYS_NOTHING = 1.0
"""Unexplained share of a change from which features have nothing to say of it: no feature at all leaves as much."""
HELD_OUT_SHARE = 0.5
"""Least share of the fitted effect that must be seen on held-out documents (METHODS 9)."""


class Threshold(NamedTuple):
    """What a finding must reach: q at most, |effect| at least."""

    q: float
    min_effect: float


class Offer(NamedTuple):
    """What a method's file says of one candidate.

    Attributes:
        id: its name within the method ("unexplained 1", a feature's or latent's number).
        side: the model that has it, or has more of it.
        effect: in the method's own unit (see its reader), B minus A: above the null for a candidate of B's side.
        held_out: the same on documents that had no part in finding it.
        lo, hi: 95 % interval of the held-out effect.
        p: of the held-out effect; NaN where it cannot be tested.
        null: the effect that is expected where nothing differs.
        direction: float64 [d_side], in the space of its side.
        rows: token rows of its own side where it shows most, the strongest first.
        seeds: in how many runs it is recovered, "k/S"; empty for methods without seeds.
        nu_err, nu_rec: latent scaling (crosscoders).
        barred: why it cannot be a finding whatever its numbers, or "".
        q: Benjamini-Hochberg in the method's own family, where that is larger than what it puts forward; else NaN.
        thing: what it is about; of several candidates of one side about one thing the best is written.
        place: the template token at which it is seen, or "".
        tokens: token file of `rows` where that is not the pair's, or "".
        caveat: what speaks against reading it at face value, or "".
        surplus: of a direction, the variance along it that its side has and the other has not; else NaN.
    """

    kind: Kind
    id: str
    side: SideName
    effect: float
    held_out: float
    lo: float
    hi: float
    p: float
    direction: DoubleArray
    rows: IntArray
    null: float = 0.0
    seeds: str = ""
    nu_err: float = NAN
    nu_rec: float = NAN
    barred: str = ""
    q: float = NAN
    thing: str = ""
    place: str = ""
    tokens: str = ""
    caveat: str = ""
    surplus: float = NAN


@dataclass(frozen=True)
class Candidate:
    """An offer with its place in the family of its pair and method.

    Attributes:
        offer: what the method says.
        q: Benjamini-Hochberg.
        legs: how far q (in logs), held-out share and size exceed what is asked; 1 is just met.
        repeats: id of a candidate of the same side that says the same, or "". A method lists directions by two
            criteria, or a feature by several metrics: one thing must not be written down twice. Of directions at
            |cos| >= .7 the better one is kept. Of others, one repeats a stronger one whose surplus, seen along it,
            makes up half of its own or more: variance along v shows at cos^2 along every direction.
    """

    offer: Offer
    q: float
    legs: tuple[float, float, float]
    repeats: str = ""

    @property
    def weakest(self) -> float:
        """The least of the legs."""
        return min(self.legs)

    @property
    def clears(self) -> bool:
        """Whether it is a finding, or would be if another did not say the same."""
        return self.weakest >= 1.0 and not self.offer.barred

    @property
    def stands(self) -> bool:
        """Whether it is a finding."""
        return self.clears and not self.repeats


@dataclass(frozen=True)
class Ranking:
    """Everything that one method put forward on one pair, best first; `untestable` says why it could not, or ""."""

    candidates: Sequence[Candidate]
    untestable: str = ""

    @property
    def findings(self) -> list[Candidate]:
        """The candidates that stand."""
        return [candidate for candidate in self.candidates if candidate.stands]


def rank(offers: Sequence[Offer], threshold: Threshold, untestable: str = "") -> Ranking:
    """Give each offer its q (its own, or among the offers) and legs; order by weakest leg, p, then larger effect.

    Args:
        offers: what a method puts forward.
        threshold: what a finding must reach.
        untestable: why the method could not test anything, where that is known beforehand.
    """
    among = resampling.benjamini_hochberg([offer.p for offer in offers])
    q = [value if math.isnan(offer.q) else offer.q for offer, value in zip(offers, among, strict=True)]
    candidates = [
        Candidate(offer, float(value), _legs(offer, float(value), threshold))
        for offer, value in zip(offers, q, strict=True)
    ]
    order = sorted(
        range(len(candidates)),
        key=lambda i: (-candidates[i].weakest, _last(offers[i].p), -_last(abs(offers[i].effect), -1.0), i),
    )
    ordered = _mark_repeats([candidates[i] for i in order])
    return Ranking(ordered, untestable or _untestable(offers))


def _untestable(offers: Sequence[Offer]) -> str:
    if not offers or not all(math.isnan(offer.p) for offer in offers):
        return ""
    why = sorted({offer.barred for offer in offers} - {""})
    return "no candidate could be tested" + (f" ({', '.join(why)})" if why else "")


def _mark_repeats(candidates: Sequence[Candidate]) -> list[Candidate]:
    marked: list[Candidate] = []
    best: dict[tuple[str, str], str] = {}
    kept: list[Offer] = []
    strong = [each.offer for each in candidates if each.offer.kind == "direction" and each.clears]
    for candidate in candidates:
        offer = candidate.offer
        repeats = best.get((offer.side, offer.thing), "") if offer.thing else ""
        if offer.kind == "direction":
            same = (other.id for other in kept if _overlap(offer, other) >= SAME_DIRECTION)
            leaks = (other.id for other in strong if _shows(offer, other))
            repeats = next(chain(same, leaks), "")
        if not repeats:
            best[offer.side, offer.thing] = offer.id
            kept += [offer] * (offer.kind == "direction")
        marked.append(replace(candidate, repeats=repeats))
    return marked


def _overlap(one: Offer, other: Offer) -> float:
    """|cos| of two directions, 0 on different sides."""
    return abs_cosine(one.direction, other.direction) if one.side == other.side else 0.0


def _shows(offer: Offer, other: Offer) -> bool:
    """Whether half or more of what is seen along a direction is a stronger one's, at |cos| < .7."""
    overlap = _overlap(offer, other)
    leaked = overlap**2 * other.surplus
    return overlap < SAME_DIRECTION and other.surplus > offer.surplus and leaked >= 0.5 * offer.surplus


def abs_cosine(x: DoubleArray, y: DoubleArray) -> float:
    """|cos| of two vectors; 0 where they differ in width or one is zero."""
    length = float(np.linalg.norm(x) * np.linalg.norm(y)) if len(x) == len(y) else 0.0
    return abs(float(x @ y)) / length if length > 0 else 0.0


def _legs(offer: Offer, q: float, threshold: Threshold) -> tuple[float, float, float]:
    certain = math.log(max(q, resampling.SMALLEST_P)) / math.log(threshold.q) if q == q else 0.0
    towards = 1.0 if offer.side == "B" else -1.0
    shift, held_out = towards * (offer.effect - offer.null), towards * (offer.held_out - offer.null)
    repeated = held_out / (HELD_OUT_SHARE * shift) if shift > 0 and math.isfinite(held_out) else 0.0
    large = shift / threshold.min_effect if math.isfinite(shift) else 0.0
    return certain, repeated, large


def _last(value: float, when_nan: float = math.inf) -> float:
    return when_nan if math.isnan(value) else value


# --- what each method puts forward ------------------------------------------------------------------------------


def linear_map_offers(files: Mapping[str, Any]) -> list[Offer]:
    """Directions that the best map misses: B's from A -> B, A's from B -> A.

    The effect is the excess (METHODS 9): the variance along the direction that is not predicted from the other model,
    less the same with the models' labels swapped, over the variance of both. .1 means a fifth more variance.
    """
    with artifacts.read(files["linear_map"], "linear_map") as file:
        token_row = file["rows/token_row"][:].astype(np.int64)
        return [
            *_directions(file["forward/directions"], "B", 1.0, token_row[1]),
            *_directions(file["backward/directions"], "A", -1.0, token_row[0]),
        ]


def _directions(group: h5py.Group, side: SideName, sign: float, token_row: IntArray) -> list[Offer]:
    kinds = [str(kind) for kind in group["kind"].attrs["kinds"]]
    labels = numbered([kinds[int(code)] for code in group["kind"][:]])
    bounds = np.sort(sign * _sum_bounds(group["difference"][:]), axis=1)
    return [
        Offer(
            kind="direction",
            id=label,
            side=side,
            effect=sign * float(group["excess"][k, 0]),
            held_out=sign * float(group["excess"][k, 1]),
            lo=float(bounds[k, 0]),
            hi=float(bounds[k, 1]),
            p=float(group["p"][k]),
            direction=group["pattern"][k].astype(np.float64),
            rows=_strongest(token_row, group["top_row"][k, 1], group["top_score"][k, 1]),
            surplus=float(group["surplus"][k]),
        )
        for k, label in enumerate(labels)
    ]


def numbered(names: Sequence[str]) -> list[str]:
    """`pca, pca, unexplained` -> `pca 1, pca 2, unexplained 1`."""
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(f"{name} {seen[name]}")
    return labels


def _sum_bounds(difference: DoubleArray) -> DoubleArray:
    """95 % Poisson bootstrap over documents of the sums of [K, D], as shares in [-1, 1]; float64 [K, 2]."""
    if not len(difference):
        return np.zeros((0, 2))
    bounds = resampling.poisson_bootstrap(difference.T, seed=0)
    both: DoubleArray = np.stack([bounds.lo, bounds.hi], axis=1) * difference.shape[1]
    return np.clip(both, -1.0, 1.0)


def _strongest(token_row: IntArray, rows: npt.NDArray[Any], scores: npt.NDArray[Any]) -> IntArray:
    """Token rows of both ends of a direction [2, contexts] together, by falling |score|; -1 is padding."""
    order = np.argsort(-np.abs(scores.ravel()), kind="stable")
    at = rows.ravel()[order]
    strongest: IntArray = token_row[at[at >= 0]]
    return strongest


def pairing_offers(files: Mapping[str, Any]) -> list[Offer]:
    """Features without a counterpart in the other model's dictionary.

    The effect is the gain: the feature's activations summed on its own model and on the other, their difference over
    their sum; 1 is only in its own model, 0 as much in both. Negative for features of A.
    """
    with artifacts.read(files["pairing"], "pairing") as file:
        return [*_features(file, files, "A", -1.0), *_features(file, files, "B", 1.0)]


def untested_pairing(files: Mapping[str, Any]) -> str:
    """Why no unmatched feature could be tested, or ""."""
    with artifacts.read(files["pairing"], "pairing") as file:
        tested = "gain_a" in file or "gain_b" in file
    return "" if tested else "neither dictionary was read on the other model, whose width or site is another"


def _features(file: h5py.File, files: Mapping[str, Any], side: SideName, sign: float) -> list[Offer]:
    name = side.lower()
    if f"gain_{name}" not in file:
        return []
    gain = artifacts.read_table(file, f"gain_{name}")
    if not len(gain["latent"]):
        return []
    W_dec = sae.load(Path(files[f"dictionary_{name}"]).parent).W_dec
    codes = contexts.Codes(files[f"features_{name}"])
    bounds = np.sort(sign * np.stack([gain["lo"], gain["hi"]], axis=1), axis=1)
    return [
        Offer(
            kind="feature",
            id=str(latent),
            side=side,
            effect=sign * float(gain["fitted"][k]),
            held_out=sign * float(gain["held_out"][k]),
            lo=float(bounds[k, 0]),
            hi=float(bounds[k, 1]),
            p=float(gain["p"][k]),
            direction=W_dec[latent].astype(np.float64),
            rows=codes.top(int(latent))[0],
        )
        for k, latent in enumerate(gain["latent"])
    ]


def crosscoder_offers(files: Mapping[str, Any]) -> list[Offer]:
    """Latents whose decoder row is in one model alone.

    The effect is that of the label swap: the latent's activations summed as the models are and with the two models'
    rows exchanged, their difference over their sum; negative for latents of A. Where widths differ and rows cannot be
    exchanged, it is 1 less the share of it that is in the other model's error (nu_err), p from its bootstrap. Only the
    weights, which never saw the held-out documents, decide who is a candidate; latent scaling can only take one away.
    """
    runs = [run for run in files["crosscoders"] if has_sides(run)]
    names = list(dict.fromkeys(run["name"] for run in runs))
    offers: list[Offer] = []
    for name in names:
        own = [run for run in runs if run["name"] == name]
        first = _read_run(own[0], len(own))
        for side in SIDES:
            offers += _latents(first, side, f"{name} " if len(names) > 1 else "")
    return offers


def has_sides(run: Mapping[str, Any]) -> bool:
    """Whether a crosscoder's latents belong to models; those of a dictionary on x_B - x_A do not."""
    with artifacts.read(run["latents"], "latents") as file:
        return len(artifacts.read_json(file, "widths")) > 1


@dataclass(frozen=True)
class _Run:
    """What one run of a crosscoder says of its latents; columns [F], arrays with the models' axis first.

    `recovered` counts for each latent the runs, of `n_runs`, that have it.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    only: Mapping[SideName, IntArray]
    W_dec: Mapping[SideName, npt.NDArray[np.float32]]
    token_row: npt.NDArray[np.int64]
    nu: Mapping[str, npt.NDArray[np.float64]]
    recovered: IntArray
    n_runs: int


def _read_run(run: Mapping[str, Any], n_runs: int) -> _Run:
    with artifacts.read(run["latents"], "latents") as file:
        columns = artifacts.read_table(file, "latents")
        classes = artifacts.read_json(file, "classes")
        only = {side: np.flatnonzero(columns["class"] == classes.index(f"{side}-only")) for side in SIDES}
        tops = [file[f"top/{name}/token_row"][:] for name in ("held_out", "selection")]
        nu = {name: file[f"nu/{name}"][:] for name in ("err", "rec")}
    with artifacts.read(run["weights"], "crosscoder") as file:
        W_dec = {side: file[f"W_dec/{model}"][:] for model, side in enumerate(SIDES)}
    recovered = np.ones(len(columns["class"]), dtype=np.int64)
    if run.get("seeds"):
        with artifacts.read(run["seeds"], "seeds") as file:
            recovered = file[f"recovered/{run['seed']}"][:]
    return _Run(columns, only, W_dec, np.concatenate(tops, axis=2), nu, recovered, n_runs)


def _latents(first: _Run, side: SideName, prefix: str) -> list[Offer]:
    """The candidates of one side in a run."""
    model, column = SIDES.index(side), first.columns
    offers = []
    for latent in first.only[side]:
        nu_err, nu_rec = (float(first.nu[name][latent, model, 1 - model]) for name in ("err", "rec"))
        rows = first.token_row[model, latent]
        offers.append(
            Offer(
                kind="latent",
                id=f"{prefix}{latent}",
                side=side,
                effect=float(column["effect_selection"][latent]),
                held_out=float(column["effect_held_out"][latent]),
                lo=float(column["effect_lo"][latent]),
                hi=float(column["effect_hi"][latent]),
                p=float(column["p"][latent]) if column["density_held_out"][latent] > 0 else NAN,
                direction=first.W_dec[side][latent].astype(np.float64),
                rows=rows[rows >= 0],
                seeds=f"{first.recovered[latent]}/{first.n_runs}",
                nu_err=nu_err,
                nu_rec=nu_rec,
                barred=_refuted(nu_err, nu_rec),
            )
        )
    return offers


def _refuted(nu_err: float, nu_rec: float) -> str:
    """Why latent scaling says that the other model has the latent too, or "" (also where it cannot tell)."""
    for name, value, limit in (("nu_err", nu_err, EXCLUSIVE_NU[0]), ("nu_rec", nu_rec, EXCLUSIVE_NU[1])):
        if abs(value) >= limit:
            return f"latent scaling: {name} {value:.2f}, the other model has it too"
    return ""


def template_offers(files: Mapping[str, Any]) -> list[Offer]:
    """Features that changed at template tokens: the rows of the ranked table (METHODS 4).

    The effect is the mean change over prompts in standard deviations, fitted on folds other than 0 and held out on
    fold 0; q is that of all eligible latents, roles and metrics. A feature that changed by several metrics or at
    several tokens is one finding. Where the features' change leaves all of the activations' change unexplained, nothing
    can be told by features.
    """
    return [
        offer
        for run in files["template_diffs"]
        for offer in template_rows(run, "ranked", f"{run['name']} " if len(files["template_diffs"]) > 1 else "")
    ]


def template_rows(run: Mapping[str, Any], name: str, prefix: str = "") -> list[Offer]:
    """Offers of one table (ranked, planted) of a template diff."""
    with artifacts.read(run["diff"], "template_diff") as file:
        table = artifacts.read_table(file, name)
        rows = file["prompts_of_ranked"][:] if name == "ranked" else np.full((len(table["latent"]), 0), -1)
        mute = _mute_roles(artifacts.read_json(file, "summary")) if name == "ranked" else set()
        shifted = table.get("domain_shift", np.full(len(rows), "no"))
    W_dec = sae.load(Path(run["dictionary"]).parent).W_dec
    offers = []
    for k, (latent, role, metric) in enumerate(zip(table["latent"], table["role"], table["metric"], strict=True)):
        numbers = ("effect_fitted", "effect_held_out", "lo", "hi", "p", "q")
        effect, held_out, lo, hi, p, q = (float(table[column][k]) for column in numbers)
        silent = role in mute
        caveat = "domain shift" if shifted[k] == "yes" else ""
        offers.append(
            Offer(
                kind="feature",
                id=template_id(prefix, int(latent), str(role), str(metric), caveat),
                side="B" if table["direction"][k] == "up" else "A",
                effect=effect,
                held_out=held_out,
                lo=lo,
                hi=hi,
                p=NAN if silent else p,
                q=NAN if silent else q,
                direction=W_dec[latent].astype(np.float64),
                rows=rows[k][rows[k] >= 0],
                barred="the features' change does not describe that of the activations" if silent else "",
                thing=f"{prefix}{latent}",
                place=str(role),
                tokens=str(run["tokens"]),
                caveat=caveat,
            )
        )
    return offers


def _mute_roles(summary: Mapping[str, Any]) -> set[str]:
    """Roles at which the features' change leaves at least all of the activations' change unexplained."""
    unexplained = {role: numbers["change_unexplained"] for role, numbers in summary["roles"].items()}
    return {role for role, share in unexplained.items() if share is not None and share >= SAYS_NOTHING}


def template_id(prefix: str, latent: int, role: str, metric: str, caveat: str = "") -> str:
    """What a finding at a template token is called: `12 at newline, density`, and its caveat."""
    mark = f", {caveat}" if caveat else ""
    return f"{prefix}{latent} at {' '.join(role.split()) or repr(role)}, {metric.replace('_', ' ')}{mark}"
