from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from diptych.affine_maps import moments
from diptych.correlation import stage
from diptych.dictionaries import encoding
from diptych.dictionaries.codes import Features
from diptych.linear_map import ladder
from diptych.linear_map import stage as linear_map
from diptych.matching import decoys
from diptych.oracle import planted
from diptych.pairing import gains
from diptych.pairing import stage as pairing
from diptych.pairing.pairing import FILTERED_RHO, FILTERED_TOKEN, MATCHED, UNMATCHED, Side, Slopes
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import word_lists

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

RULES = ("many_to_one", "one_to_many", "one_to_one", "mutual", "hungarian")
SCORES = ("rho", "cosine", "euclidean", "mean")


def as_features(codes: FloatArray, document: IntArray) -> Features:
    n = len(codes)
    return Features(
        sparse.csr_array(codes.astype(np.float32)), np.arange(n), document, document % 5, np.zeros(n, np.int64)
    )


class Case:
    """A planted pair read by two perfect dictionaries, B's latents in random order."""

    def __init__(self, pair: planted.PlantedPair, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        n = len(pair.label)
        self.truth = pair
        self.of_b = rng.permutation(n)
        tokens = [[f" Word{name}", f"word{name}"] for name in range(n)]
        sides = []
        for codes, directions, order in (
            (pair.codes_A, pair.directions_A, np.arange(n)),
            (pair.codes_B, pair.directions_B, self.of_b),
        ):
            decoder = directions[order].astype(np.float32)
            encoder = (decoder * rng.uniform(0.5, 1.0, (n, 1)).astype(np.float32)).T
            found = as_features(codes[:, order], pair.document)
            sides.append(Side(found, encoder, decoder, [tokens[name] for name in order]))
        self.a, self.b = sides
        forward = np.linalg.lstsq(pair.directions_A, pair.directions_B, rcond=None)[0]
        backward = np.linalg.lstsq(pair.directions_B, pair.directions_A, rcond=None)[0]
        self.slopes = Slopes(forward, backward)
        self.table = stage.correlate_features(self.a.codes, self.b.codes)

    def pair(self, **settings: object) -> pairing.Pairing:
        return pairing.pair_latents(self.a, self.b, self.table, self.slopes, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def identical() -> Case:
    return Case(planted.identical_pair(n_documents=100))


@pytest.fixture(scope="module")
def differing() -> Case:
    labels = {"only_A": 6, "only_B": 8}
    return Case(planted.make_pair(1, n_documents=150, n_features=80, d_A=48, d_B=40, labels=labels))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("score", SCORES)
def test_identical_pair_is_matched_whole(identical: Case, rule: str, score: str) -> None:
    found = identical.pair(rule=rule, score=score)
    rows_a, rows_b = found.matched()
    np.testing.assert_array_equal(identical.of_b[rows_b], rows_a)
    for verdicts, side in ((found.a, identical.table.a), (found.b, identical.table.b)):
        assert (verdicts.status[side.eligible] == MATCHED).all()
        assert not len(verdicts.unmatched())
    assert found.pairs["cosine"].min() > 1 - 1e-5
    assert found.pairs["rho_held_out"].min() > 1 - 1e-6


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("score", SCORES)
def test_a_known_permutation_and_what_only_one_has_come_back(differing: Case, rule: str, score: str) -> None:
    found = differing.pair(rule=rule, score=score)
    rows_a, rows_b = found.matched()
    assert len(rows_a) == 66
    np.testing.assert_array_equal(differing.of_b[rows_b], rows_a)
    only_B = differing.truth.features("only_B")
    assert sorted(differing.of_b[found.b.unmatched()]) == only_B.tolist()
    assert found.a.unmatched().tolist() == differing.truth.features("only_A").tolist()
    absent = np.isin(differing.of_b, differing.truth.features("only_A"))
    assert {pairing.STATUSES[code] for code in found.b.status[absent]} == {"dead"}


def test_a_cut_of_one_cuts_nothing(differing: Case) -> None:
    found, cut = (
        differing.pair(rule="one_to_one", cut=level, rho_floor=-1.0, concept_filter=False) for level in (1.0, 0.05)
    )
    assert found.summary["steps"]["q"] == found.summary["matched"] == found.summary["steps"]["candidates"]
    assert cut.summary["matched"] < found.summary["matched"]
    assert (found.summary["cut"], cut.summary["cut"]) == (1.0, 0.05)


def fitted_slopes(truth: planted.PlantedPair) -> Slopes:
    """The best maps between the two spaces, as the stage learns them."""
    folds = moments.accumulate(truth.rows())
    found = []
    for direction in (folds, folds.reversed()):
        result = linear_map.cross_validate(direction, "simple", ladder.ALPHAS)
        found.append(result.ladder.slope(result.best.name, result.best.hyperparameters, (0,)))
    return Slopes(found[0], found[1])


@pytest.fixture(scope="module")
def changed() -> Case:
    """A pair with every kind of change, its slopes learned from the activations."""
    labels: dict[str, planted.Label] = {
        "only_A": 4, "only_B": 5, "rotated": (8, (0.2, 1.2)), "rescaled": (6, (0.4, 3.0)),
    }  # fmt: skip
    # Five features a dimension: with fewer, a linear map can turn each one as it likes and no angle is left to see.
    truth = planted.make_pair(4, n_documents=200, n_features=200, d_A=40, d_B=44, d_0=40, labels=labels, noise=0.05)
    case = Case(truth)
    case.slopes = fitted_slopes(truth)
    return case


def test_changed_features_get_their_labels(changed: Case) -> None:
    """Turned features have other directions by their angle, rescaled ones other sizes by their factor."""
    found = changed.pair(rule="hungarian", score="rho")
    rows_a, rows_b = found.matched()
    np.testing.assert_array_equal(changed.of_b[rows_b], rows_a)
    n, truth = len(changed.truth.label), changed.truth
    turned, size = np.full(n, np.nan), np.full(n, np.nan)
    matched = found.pairs["outcome"] == MATCHED
    turned[rows_a] = 1 - found.pairs["cosine"][matched] ** 2
    size[rows_a] = found.pairs["size_ratio"][matched]
    for label, estimate in (("rotated", turned), ("rescaled", size)):
        correlation_with_truth, coverage = planted.amount_correlation(truth, label, estimate)
        assert coverage == 1.0
        assert correlation_with_truth >= 0.9
    unchanged = truth.features("shared")
    assert np.nanmax(turned[unchanged]) < 0.2 < np.nanmax(turned[truth.features("rotated")])
    np.testing.assert_allclose(size[unchanged], 1.0, atol=0.02)
    np.testing.assert_allclose(size[truth.features("rescaled")], truth.amount[truth.features("rescaled")], rtol=0.02)


@pytest.mark.parametrize("rule", ["one_to_one", "mutual", "hungarian"])
def test_average_precision_of_the_unmatched_ranking(changed: Case, rule: str, record_property: Any) -> None:
    """Unmatched features by the p of their gain, against the planted ones, with features that are in no truth."""
    truth, rng = changed.truth, np.random.default_rng(0)
    n_junk = 10
    junk_rows = rng.normal(size=(2, n_junk, 44)).astype(np.float32)
    junk = np.where(rng.random((2, len(truth.document), n_junk)) < 0.1, 1.0, 0.0)
    # Both models show B's junk, so its gain is nothing but chance.
    codes_b = np.concatenate([truth.codes_B[:, changed.of_b], junk[0]], axis=1)
    codes_b_on_a = np.concatenate([truth.codes_A[:, changed.of_b], junk[1]], axis=1)
    W_dec = np.concatenate([changed.b.W_dec, junk_rows[0] / np.linalg.norm(junk_rows[0], axis=1, keepdims=True)])
    tokens = [*changed.b.top_tokens, *([f"junk{k}"] for k in range(n_junk))]
    b = Side(as_features(codes_b, truth.document), W_dec.T.copy(), W_dec, tokens)
    table = stage.correlate_features(changed.a.codes, b.codes)
    found = pairing.pair_latents(changed.a, b, table, changed.slopes, rule=rule, score="rho")  # type: ignore[arg-type]
    of_b = gains.activation_gain(b.codes, as_features(codes_b_on_a, truth.document), found.b.unmatched())
    of_a = gains.activation_gain(changed.a.codes, as_features(truth.codes_B, truth.document), found.a.unmatched())
    assert len(of_b.latent) >= 5 + n_junk - 2
    ranked = sorted(
        [(p, -gain, "B", W_dec[k]) for p, gain, k in zip(of_b.p, of_b.held_out, of_b.latent, strict=True)]
        + [(p, -gain, "A", changed.a.W_dec[k]) for p, gain, k in zip(of_a.p, of_a.held_out, of_a.latent, strict=True)],
        key=lambda entry: entry[:2],
    )
    precision = planted.average_precision([entry[3] for entry in ranked], [entry[2] for entry in ranked], truth)
    record_property("average_precision", precision)
    print(f"average precision of the unmatched ranking, {rule}: {precision:.3f}")
    assert precision >= 0.95


def test_columns_belong_to_their_own_latent(differing: Case) -> None:
    found = differing.pair(rule="mutual", score="rho").pairs
    norm_A = np.linalg.norm(differing.a.W_enc, axis=0)
    norm_B = np.linalg.norm(differing.b.W_enc, axis=0)
    for row in range(len(found["a"])):
        i, j = found["a"][row], found["b"][row]
        difference = norm_A[i] / norm_A.max() - norm_B[j] / norm_B.max()
        assert found["norm_difference"][row] == pytest.approx(difference, abs=1e-6)
        assert found["density_ratio"][row] == pytest.approx(
            (differing.b.codes.csr[:, [j]].nnz / differing.a.codes.csr[:, [i]].nnz), rel=1e-9
        )
        x, y = differing.a.W_dec[i] @ differing.slopes.forward, differing.b.W_dec[j]
        assert found["cosine"][row] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)
        assert found["distance"][row] == pytest.approx(np.linalg.norm(x - y), rel=1e-5, abs=1e-6)
        v, w = differing.slopes.backward @ differing.a.W_enc[:, i], differing.b.W_enc[:, j]
        assert found["encoder_cosine"][row] == pytest.approx(v @ w / np.linalg.norm(v) / np.linalg.norm(w), abs=1e-6)
    half = differing.table.halves.of(differing.truth.document)
    i, j = found["a"][3], found["b"][3]
    dense_A, dense_B = differing.a.codes.csr.toarray()[half == 1], differing.b.codes.csr.toarray()[half == 1]
    assert found["rho_held_out"][3] == pytest.approx(np.corrcoef(dense_A[:, i], dense_B[:, j])[0, 1], abs=1e-6)


def test_q_counts_decoys_over_matches() -> None:
    match, decoy = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0.1, 0.65, 0.1, 0.1, 0.55])
    raw = [1 / 1, 1 / 2, 1 / 3, 2 / 4, 3 / 5]
    expected = [min(raw[i:]) for i in range(5)]
    np.testing.assert_allclose(decoys.q_values(match, decoy), expected)
    order = [3, 1, 0, 4, 2]
    np.testing.assert_allclose(decoys.q_values(match[order], decoy[order]), np.array(expected)[order])
    assert decoys.q_values(np.ones(3), np.zeros(3)).tolist() == [1 / 3] * 3


def crowd(
    rng: np.random.Generator, n: int, kind: str, apart: float, noise: float
) -> tuple[FloatArray, FloatArray, int]:
    """Two dictionaries whose first rows are the same up to noise and whose others are unrelated."""
    basis, centres = rng.normal(size=(8, 32)), rng.normal(size=(20, 32))

    def rows(count: int) -> npt.NDArray[np.float64]:
        if kind == "low_rank":
            return rng.normal(size=(count, 8)) @ basis + 0.05 * rng.normal(size=(count, 32))
        crowded = 1.2 * centres[rng.integers(20, size=count)] if kind == "clustered" else 0.0
        return crowded + rng.normal(size=(count, 32))

    shared = int(n * (1 - apart))
    common = rows(shared)
    sides = []
    for _ in range(2):
        side = np.concatenate([common, rows(n - shared)])
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        sides.append((side + noise * rng.normal(size=side.shape) / np.sqrt(32)).astype(np.float32))
    return sides[0], sides[1], shared


@pytest.mark.parametrize("rule", ["many_to_one", "hungarian"])
@pytest.mark.parametrize("kind", ["random", "clustered", "low_rank"])
@pytest.mark.parametrize(("apart", "noise"), [(0.8, 0.3), (0.8, 0.7), (0.3, 0.5)])
def test_false_matches_hold_at_five_per_cent(rule: decoys.Rule, kind: str, apart: float, noise: float) -> None:
    wrong, n = [], 200
    for seed in range(10):
        W_A, W_B, shared = crowd(np.random.default_rng(seed), n, kind, apart, noise)
        geometry = decoys.decoder_geometry(W_A, W_B, np.eye(32), 0.1)
        nothing = as_features(np.zeros((1, n), np.float32), np.zeros(1, np.int64))
        scorer = decoys.Scorer(
            (nothing, nothing), np.zeros(1, np.int64), 0, geometry, score="cosine", memory=2**24, device="cpu"
        )
        matching = decoys.match_latents(
            scorer, decoys.MatchingSettings(rule, 0.05, 0.99, 10), (np.arange(n), np.arange(n))
        )
        kept = matching.pairs.edges.take(matching.pairs.q <= 0.05)
        false = (kept.i != kept.j) | (kept.j >= shared)
        wrong.append(false.sum() / max(1, len(false)))
        if kind != "low_rank" and noise < 0.5:
            assert (~false).sum() > 0.2 * shared
    # The mean of ten shares near .05 has a standard error of about .01.
    assert np.mean(wrong) <= 0.05 + 0.015


def test_unmatched_means_no_match_not_no_power() -> None:
    case = Case(planted.make_pair(3, n_documents=100, labels={"only_B": 1}))
    few = np.flatnonzero(case.table.b.eligible)[:15]
    table = case.table
    eligible = np.isin(np.arange(48), few)
    small = stage.CorrelationTable(
        table.a,
        stage.Partners(**{**vars(table.b), "eligible": eligible}),
        table.halves,
        table.histogram,
        table.edges,
        table.never_together,
    )
    found = pairing.pair_latents(case.a, case.b, small, case.slopes, rule="mutual")
    assert found.summary["lowest_q_possible"] > 0.05
    assert found.summary["matched"] == 0


def test_twins_are_grouped_and_share_a_verdict(identical: Case) -> None:
    def doubled(side: Side, latent: int) -> Side:
        columns = [*range(48), latent]
        codes = as_features(side.codes.csr.toarray()[:, columns], identical.truth.document)
        return Side(codes, side.W_enc[:, columns], side.W_dec[columns], [side.top_tokens[c] for c in columns])

    a, b = doubled(identical.a, 7), doubled(identical.b, 11)
    table = stage.correlate_features(a.codes, b.codes)
    for score in SCORES:
        found = pairing.pair_latents(a, b, table, identical.slopes, rule="one_to_one", score=score)
        assert (found.summary["twins_a"], found.summary["twins_b"]) == (1, 1)
        assert found.a.representative[48] == 7
        assert found.a.status[48] == MATCHED
        assert found.a.partner[48] == found.a.partner[7]
        assert found.summary["matched"] == 48
        assert not len(found.b.unmatched())


def test_filter_counts_what_each_step_leaves(identical: Case) -> None:
    tokens = [list(words) for words in identical.a.top_tokens]
    tokens[0] = [" ", "the"]
    tokens[1] = ["<|im_end|>"]
    tokens[2] = ["nothing", "shared"]
    a = Side(identical.a.codes, identical.a.W_enc, identical.a.W_dec, tokens)
    settings = {"rule": "mutual", "score": "cosine"}
    found = pairing.pair_latents(a, identical.b, identical.table, identical.slopes, rho_floor=0.1, **settings)  # type: ignore[arg-type]
    assert found.summary["steps"] == {"candidates": 48, "q": 48, "stop_token": 46, "shared_token": 45, "rho": 45}
    assert (found.a.status[:3] == FILTERED_TOKEN).all()
    assert (found.b.status == FILTERED_TOKEN).sum() == 3
    everything = pairing.pair_latents(
        a, identical.b, identical.table, identical.slopes, concept_filter=False, **settings
    )  # type: ignore[arg-type]
    assert everything.summary["steps"] == {"candidates": 48, "q": 48}
    assert everything.summary["matched"] == 48


def test_a_geometric_match_that_does_not_fire_together_is_dropped(identical: Case) -> None:
    codes = identical.b.codes.csr.toarray()
    latent = int(np.flatnonzero(identical.of_b == 5)[0])
    rng = np.random.default_rng(0)
    documents = np.unique(identical.truth.document)
    rows = np.concatenate([np.flatnonzero(identical.truth.document == d) for d in rng.permutation(documents)])
    codes[:, latent] = codes[rows, latent]
    b = Side(as_features(codes, identical.truth.document), identical.b.W_enc, identical.b.W_dec, identical.b.top_tokens)
    table = stage.correlate_features(identical.a.codes, b.codes)
    found = pairing.pair_latents(identical.a, b, table, identical.slopes, rule="mutual", score="cosine")
    assert found.a.status[5] == FILTERED_RHO
    assert found.b.status[latent] == FILTERED_RHO
    by_rho = pairing.pair_latents(identical.a, b, table, identical.slopes, rule="mutual", score="rho")
    assert by_rho.a.status[5] == UNMATCHED


def test_directions_that_the_map_does_not_carry_have_no_cosine(identical: Case) -> None:
    direction = identical.a.W_dec[4].astype(np.float64)
    direction /= np.linalg.norm(direction)
    lost = identical.slopes.forward - np.outer(direction, direction @ identical.slopes.forward)
    slopes = Slopes(lost, identical.slopes.backward)
    found = pairing.pair_latents(identical.a, identical.b, identical.table, slopes, rule="mutual", score="cosine")
    assert found.summary["not_carried_by_map"] == 1
    assert found.a.status[4] == UNMATCHED
    by_rho = pairing.pair_latents(identical.a, identical.b, identical.table, slopes, rule="mutual", score="rho")
    assert np.isnan(by_rho.pairs["cosine"]).sum() == 1
    assert by_rho.a.status[4] == MATCHED


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        (" ", True),
        ("...", True),
        ("", True),
        ("<bos>", True),
        ("[PAD]", True),
        (" the", False),
        ("<", True),
        ("é", False),
    ],
)
def test_stop_tokens(text: str, stop: bool) -> None:
    assert word_lists.is_stop_token(text) is stop


def test_gain_is_one_for_what_only_one_model_does() -> None:
    rng = np.random.default_rng(0)
    document = np.repeat(np.arange(100), 10)
    own = np.where(rng.random((1000, 4)) < 0.2, rng.lognormal(size=(1000, 4)), 0.0)
    other = own.copy()
    other[:, 0] = 0.0  # only in own
    other[:, 2] = 3.0 * own[:, 2]  # three times as much in the other
    other[:, 3] = own[rng.permutation(1000), 3]  # as much, on other tokens
    result = gains.activation_gain(as_features(own, document), as_features(other, document), np.arange(4))
    np.testing.assert_allclose(result.held_out[:3], [1.0, 0.0, -0.5], atol=1e-6)
    np.testing.assert_allclose(result.fitted[:3], [1.0, 0.0, -0.5], atol=1e-6)
    assert result.p[0] < 1e-4
    assert result.p[1] == 1.0
    assert result.p[2] < 1e-4
    assert result.p[3] > 0.01
    assert result.lo[3] < 0 < result.hi[3]
    assert result.documents[0] == 20 - (own[:, 0].reshape(100, 10)[::5].sum(axis=1) == 0).sum()
    swapped = gains.activation_gain(as_features(other, document), as_features(own, document), np.arange(4))
    np.testing.assert_allclose(swapped.held_out, -result.held_out)
    np.testing.assert_allclose(swapped.p, result.p)


def test_gain_of_exchangeable_models_is_no_finding() -> None:
    p = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        document = np.repeat(np.arange(100), 5)
        mood = rng.lognormal(size=(2, 100, 20))[:, document]
        codes = [np.where(rng.random((500, 20)) < 0.3, mood[m], 0.0) for m in range(2)]
        p.append(gains.activation_gain(*(as_features(c, document) for c in codes), np.arange(20), bootstrap=10).p)
    assert 0.02 <= np.mean(np.concatenate(p) <= 0.05) <= 0.08


def test_nothing_eligible_is_said(identical: Case) -> None:
    table = stage.correlate_features(identical.a.codes, identical.b.codes, min_active=10_000)
    with pytest.raises(DiptychError, match="no latent of A is eligible"):
        pairing.pair_latents(identical.a, identical.b, table, identical.slopes)


class Weights:
    """A dictionary of which only the weights are read."""

    def __init__(self, side: Side) -> None:
        self.W_enc, self.W_dec = side.W_enc, side.W_dec


def write_tokens(path: Path, pair: planted.PlantedPair, times: int = 1) -> None:
    """Token n says which feature fires most on row n; each row `times` in a row."""
    n, documents = times * len(pair.document), int(pair.document.max()) + 1
    names = np.maximum(pair.codes_A, pair.codes_B).argmax(axis=1).repeat(times)
    with artifacts.create(path, "tokens", {}) as out:
        out.array("token", names.astype(np.int32))
        out.array("sequence", pair.document.astype(np.int32).repeat(times))
        out.array("position", (np.arange(n) % 40).astype(np.int32))
        out.array("counts", np.ones(n, dtype=bool))
        out.array("role", np.zeros(n, dtype=np.int8))
        out.json("roles", ["text"])
        out.array("sequences/start", np.arange(documents + 1) * (n // documents))
        out.array("sequences/document", np.arange(documents, dtype=np.int32))
        out.strings("documents/id", [str(d) for d in range(documents)])
        out.array("documents/source", np.zeros(documents, np.int32))
        out.json("sources", ["text"])
        out.array("vocabulary/id", np.arange(48, dtype=np.int32))
        out.strings("vocabulary/text", [f" w{name}" for name in range(48)])


def test_stage_end_to_end(tmp_path: Path) -> None:
    truth = planted.make_pair(2, n_documents=100, labels={"only_B": 3}, rate=0.1, same_map=True)
    case = Case(truth)
    write_tokens(tmp_path / "tokens.h5", truth)
    on_a = as_features(truth.codes_A[:, case.of_b], truth.document)
    for name, side in (("a", case.a.codes), ("b", case.b.codes), ("b_on_a", on_a)):
        encoding.write(side, tmp_path / f"{name}.h5", {})
    linear_map.fit(truth.rows(), tmp_path / "map.h5", spec={}, bootstrap=10)
    stage.correlate([tmp_path / "a.h5"], [tmp_path / "b.h5"], tmp_path / "correlation.h5", spec={})
    for name in ("pairing.h5", "again.h5"):
        pairing.pair(
            tmp_path / "correlation.h5", [tmp_path / "a.h5"], [tmp_path / "b.h5"], Weights(case.a), Weights(case.b),  # type: ignore[arg-type]
            tmp_path / "map.h5", tmp_path / "tokens.h5", tmp_path / "tokens.h5", tmp_path / name, spec={},
            features_b_on_a=[tmp_path / "b_on_a.h5"], rule="hungarian", score="mean",
            matches=tmp_path / "matches.tsv", unmatched=tmp_path / "unmatched.tsv",
        )  # fmt: skip
    assert (tmp_path / "pairing.h5").read_bytes() == (tmp_path / "again.h5").read_bytes()
    with artifacts.read(tmp_path / "pairing.h5", "pairing") as file:
        pairs, latents_b = artifacts.read_table(file, "pairs"), artifacts.read_table(file, "latents_b")
        gain, summary = artifacts.read_table(file, "gain_b"), artifacts.read_json(file, "summary")
        assert "gain_a" not in file
        assert set(pairs) == set(artifacts.read_json(file, "columns"))
    matched = pairs["outcome"] == MATCHED
    np.testing.assert_array_equal(case.of_b[pairs["b"][matched]], pairs["a"][matched])
    only_B = np.flatnonzero(np.isin(case.of_b, truth.features("only_B")))
    np.testing.assert_array_equal(gain["latent"], only_B)
    np.testing.assert_allclose(gain["held_out"], 1.0)
    np.testing.assert_allclose(gain["p"], 2.0 ** (1 - gain["documents"]), rtol=0.05)
    assert summary["proof"]["gap"] == pytest.approx(0, abs=1e-9)
    lines = [line.split("\t") for line in (tmp_path / "matches.tsv").read_text().splitlines()]
    assert len(lines) == 1 + matched.sum()
    at = lines[0].index("unexplained")
    cosines = np.array([float(line[lines[0].index("cosine")]) for line in lines[1:]])
    np.testing.assert_allclose([float(line[at]) for line in lines[1:]], 1 - cosines**2, atol=1e-5)
    alone = [line.split("\t") for line in (tmp_path / "unmatched.tsv").read_text().splitlines()]
    assert {int(line[2]) for line in alone[1:] if line[1] == "B"} == set(only_B.tolist())
    assert [int(line[0]) for line in alone[1:] if line[1] == "B"] == [1, 2, 3]
    assert latents_b["top_tokens"][pairs["b"][matched][0]].split("\t")[0].strip().startswith("w")


def test_stage_with_two_tokenizers_and_widths(tmp_path: Path) -> None:
    """Every other row of B is one of A: the pairs are those of one tokenizer; neither dictionary reads the other."""
    truth = planted.make_pair(2, n_documents=100, labels={"only_A": 2}, rate=0.1)
    case = Case(truth)
    n = len(truth.document)
    write_tokens(tmp_path / "tokens_a.h5", truth)
    write_tokens(tmp_path / "tokens_b.h5", truth, times=2)
    b, between = case.b.codes, sparse.csr_array((n, case.b.codes.n_features), dtype=np.float32)
    codes = sparse.csr_array(sparse.vstack([b.csr, between]))[np.arange(2 * n).reshape(2, n).T.ravel()]
    twice = Features(codes, np.arange(2 * n), *(part.repeat(2) for part in (b.document, b.fold, b.source)))
    for name, side in (("a", case.a.codes), ("b", twice), ("same", b)):
        encoding.write(side, tmp_path / f"{name}.h5", {})
    encoding.write_unreadable(tmp_path / "across.h5", {}, (32, 48))
    with artifacts.create(tmp_path / "alignment.h5", "alignment", {}) as out:
        out.json("identity", False)
        out.array("row_a", np.arange(n))
        out.array("row_b", 2 * np.arange(n))
    linear_map.fit(truth.rows(), tmp_path / "map.h5", spec={}, bootstrap=10)
    found = []
    for features_b, tokens_b, alignment in (("same", "a", None), ("b", "b", tmp_path / "alignment.h5")):
        shards = [tmp_path / "a.h5"], [tmp_path / f"{features_b}.h5"]
        stage.correlate(*shards, tmp_path / "correlation.h5", spec={}, alignment=alignment)
        pairing.pair(
            tmp_path / "correlation.h5", *shards, Weights(case.a), Weights(case.b), tmp_path / "map.h5",  # type: ignore[arg-type]
            tmp_path / "tokens_a.h5", tmp_path / f"tokens_{tokens_b}.h5", tmp_path / "pairing.h5", spec={},
            alignment=alignment, features_a_on_b=[tmp_path / "across.h5"], features_b_on_a=[tmp_path / "across.h5"],
            unmatched=tmp_path / "unmatched.tsv",
        )  # fmt: skip
        with artifacts.read(tmp_path / "pairing.h5", "pairing") as file:
            assert not {"gain_a", "gain_b"} & set(file)
            found.append(artifacts.read_table(file, "pairs"))
            words = artifacts.read_table(file, "latents_b")["top_tokens"]
    matched = found[1]["outcome"] == MATCHED
    assert matched.sum() > 20
    np.testing.assert_array_equal(case.of_b[found[1]["b"][matched]], found[1]["a"][matched])
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-9, err_msg=name)
    j = int(found[1]["b"][matched][0])
    assert words[j].split("\t")[0].strip() == f"w{case.of_b[j]}"
    lines = (tmp_path / "unmatched.tsv").read_text().splitlines()
    assert {int(line.split("\t")[2]) for line in lines[1:]} == set(truth.features("only_A").tolist())
