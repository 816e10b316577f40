"""Means: planted shifts come back at their places, a model with itself or its copy in bfloat16 gives nothing."""

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from diptych.activations import dump, gates, rows
from diptych.candidates import ranking
from diptych.candidates.recovery import read_truth, recovery
from diptych.derive import plant
from diptych.linear_map import stage as linear_map_stage
from diptych.means import candidates, differences, places, section, stage, vocabulary
from diptych.models import pretrained
from diptych.oracle import planted
from diptych.steering import directions
from diptych.storage import artifacts
from diptych.text import templates
from diptych.text import tokens as token_files
from diptych.text.contexts import Text
from diptych.text.corpora import stage as corpora
from small_study import write_tokens
from tiny_models import make_model, make_texts

THRESHOLD = ranking.Threshold(0.05, 0.05)
N_DOCUMENTS, LENGTH, WIDTH = 60, 40, 24


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("means") / "tokens.h5"
    write_tokens(path, np.repeat(np.arange(N_DOCUMENTS), LENGTH))
    return path


def oracle(seed=0, *, same=True, **settings):
    make = planted.identical_pair if same else planted.make_pair
    return make(seed, n_documents=N_DOCUMENTS, tokens_per_document=LENGTH, d_A=WIDTH, d_B=WIDTH, **settings)


def pair_of(x_A, x_B, tokens):
    """Rows and which of them count: all but the first position, where a massive activation may stand."""
    document = np.repeat(np.arange(N_DOCUMENTS), LENGTH)
    position = np.tile(np.arange(LENGTH), N_DOCUMENTS)
    made = rows.in_memory([x_A, x_B], document, fold=document % 5, source=document % 2)
    return rows.Rows(made.sides, made.token_row, made.document, made.fold, made.source, position), position > 0


def compare(x_A, x_B, tokens, out, **settings: Any):
    pair, counts = pair_of(x_A, x_B, tokens)
    stage.compare(pair, counts, Text(tokens), out, spec={}, **settings)
    return {"means": str(out), "tokens_a": str(tokens), "tokens_b": str(tokens)}


def ranked(files):
    return ranking.rank(candidates.candidates(files), THRESHOLD, candidates.PROPOSER.untestable(files))


def test_the_difference_is_a_mean_over_documents(tokens):
    """Documents weigh equally, however many rows they have at a place."""
    x = np.zeros((6, 2), dtype=np.float32)
    moved = np.array([[1, 0], [3, 0], [0, 8], [0, 0], [2, 0], [0, 6]], dtype=np.float32)
    document = np.array([1, 1, 2, 0, 0, 5])
    pair = rows.in_memory([x + 9, x + 9 + moved], document, fold=document % 5)
    counts = np.ones(6, dtype=bool)
    at = places.Places(("all rows",), counts[None])
    found = differences.compare(pair, counts, at, moved=0.5, random=1, seed=0)
    # Fold 0 has the documents 0 and 5; of 1 and 2, the means are (2, 0) and (0, 8).
    np.testing.assert_allclose(found.direction[0] * found.length[0], [1, 4])
    np.testing.assert_allclose(found.held_out[0], np.array([1 * 1, 4 * 6]) / np.sqrt(17), rtol=1e-6)
    # Most moved are the rows 3 or more away; A does not vary, and neither does its typical distance.
    assert found.places.names == ("all rows", places.MOVED)
    np.testing.assert_allclose(found.direction[1] * found.length[1], [1.5, 4])
    np.testing.assert_allclose(found.rows.distance, [1, 3, 8, 0, 2, 6])


def test_a_shift_is_found_at_its_place_only(tokens, tmp_path):
    x, position = oracle().x_A, np.tile(np.arange(LENGTH), N_DOCUMENTS)
    shift = np.zeros(WIDTH, dtype=np.float32)
    shift[3] = 2.0
    files = compare(x, x + shift * (position == 2)[:, None], tokens, tmp_path / "means.h5")
    made = ranked(files)
    assert [each.candidate.id for each in made.findings] == ["position 2"]
    best = made.findings[0].candidate
    assert abs(best.direction[3]) == pytest.approx(1.0)
    assert best.effect == pytest.approx(best.held_out, rel=1e-5)
    text = Text(tokens)
    assert set(text.position[best.rows]) == {2}
    assert set(text.document[text.sequence[best.rows]] % 5) == {0}
    with artifacts.read(files["means"], "means") as file:
        table = artifacts.read_table(file, "places")
    assert table["length"][list(table["name"]).index("position 2")] == pytest.approx(2.0, rel=1e-6)


def test_a_shift_at_a_role_and_everywhere(tokens, tmp_path):
    x, text = oracle().x_A, Text(tokens)
    shift = np.eye(WIDTH, dtype=np.float32)[5]
    at_role = (text.role == len(templates.ROLES))[:, None]
    role = ranked(compare(x, x + 2 * shift * at_role, tokens, tmp_path / "role.h5"))
    assert role.findings[0].candidate.id in ("token assistant", places.MOVED)
    found = {each.candidate.id: each.candidate for each in role.candidates}
    assert found["token assistant"].held_out == pytest.approx(found["token assistant"].effect, rel=1e-5)
    everywhere = ranked(compare(x, x + shift, tokens, tmp_path / "all.h5"))
    assert len(everywhere.findings) == 1, "the same direction at every place is one finding"
    assert all(each.meets_criteria for each in everywhere.candidates)


def test_a_planted_feature_is_the_direction_of_the_rows_that_moved_most(tokens, tmp_path):
    made = oracle(2, same=False, labels={"only_B": 1}, same_map=True, n_features=30, noise=0.0)
    files = compare(made.x_A, made.x_B, tokens, tmp_path / "means.h5", moved=0.05)
    best = ranked(files).findings[0].candidate
    assert abs(best.direction @ made.truths("B")[0]) >= 0.95


def test_a_model_with_itself_differs_nowhere(tokens, tmp_path):
    x = oracle().x_A
    files = compare(x, x, tokens, tmp_path / "means.h5")
    assert candidates.candidates(files) == []
    assert [clause.holds for clause in candidates.PROPOSER.control(files)] == [True]
    assert [clause.holds for clause in candidates.PROPOSER.control({})] == [None]
    moved = compare(x, x + 1, tokens, tmp_path / "moved.h5")
    assert [clause.holds for clause in candidates.PROPOSER.control(moved)] == [False]


@pytest.mark.parametrize("seed", range(3))
def test_rounding_to_bfloat16_is_no_finding(tokens, tmp_path, seed):
    """Nor at massive activations, whose rounding is larger than any difference elsewhere, and the same in each text."""
    x = oracle(seed).x_A
    position = np.tile(np.arange(LENGTH), N_DOCUMENTS)
    x = x + np.float32(3.0)
    x[position == 0, 7] = 24_052.0
    x[position == 1, 7] = 1_004.0
    rounded = artifacts.from_bfloat16(artifacts.to_bfloat16(x))
    made = ranked(compare(x, rounded, tokens, tmp_path / "means.h5"))
    assert made.findings == []
    assert len(made.candidates) > 5
    assert max(each.candidate.effect for each in made.candidates) < 0.01


def test_p_is_uniform_where_labels_are_exchanged(tokens):
    p = []
    for seed in range(60):
        made = planted.swap_labels(oracle(seed, same=False, labels={"only_B": 2}, same_map=True), seed)
        pair, counts = pair_of(made.x_A, made.x_B, tokens)
        at = places.of_tokens(pair, counts, Text(tokens), positions=2)
        found = differences.compare(pair, counts, at, moved=0.05, random=1, seed=0)
        p.append(stage._held_out(found.held_out, 2, 0)["p"])
    for of_place in np.array(p).T:
        assert stats.kstest(of_place, "uniform").pvalue > 0.01
    assert (np.array(p) < 0.05).mean() < 0.1


def test_the_family_is_all_places_of_all_sites(tokens, tmp_path):
    x = oracle().x_A
    files = []
    for seed in range(2):
        noise = np.random.default_rng(seed).normal(0.06 * (np.arange(WIDTH) == 0), size=x.shape).astype(np.float32)
        files.append(compare(x, x + noise, tokens, tmp_path / f"{seed}.h5"))
    both = {**files[0], "means_of_pair": [files[1]["means"], files[0]["means"]]}
    alone, together = candidates.q_values(files[0]), candidates.q_values(both)
    p = np.array([candidate.p for candidate in candidates.candidates(both)])
    assert len(alone) == len(together) == len(p)
    assert (together != alone).any()
    twice = candidates.q_values({**files[0], "means_of_pair": [files[0]["means"]]})
    np.testing.assert_array_equal(twice, alone)


@pytest.mark.parametrize(("same_tokens", "reason"), [(True, "widths differ"), (False, "different tokens")])
def test_without_a_common_space_there_are_only_norms(tokens, tmp_path, same_tokens, reason):
    x = oracle().x_A
    wide = x[:, :20] if same_tokens else 2 * x
    files = compare(x, wide, tokens, tmp_path / "means.h5", same_tokens=same_tokens)
    made = ranked(files)
    assert made.candidates == []
    assert reason in made.untestable
    with artifacts.read(files["means"], "means") as file:
        table = artifacts.read_table(file, "by_position")
    norm = np.linalg.norm(x, axis=1).reshape(N_DOCUMENTS, LENGTH)[:, 0]
    np.testing.assert_allclose(table["norm_a"][0], norm.mean(), rtol=1e-5)
    made_section = section.section({"id": "x", "a": "a", "b": "b", "files": files}, Text(tokens), 3, frozenset())
    assert reason in str(made_section.blocks[0])
    assert section.SECTIONS.opening({"a": "a", "b": "b", "site_b": "middle", "files": files}) == ""


def test_random_directions_follow_as_covariance(tokens):
    x = np.random.default_rng(0).normal(size=(N_DOCUMENTS * LENGTH, WIDTH)).astype(np.float32) + 50
    x[:, 4] *= 30
    pair, counts = pair_of(x, x + 1, tokens)
    at = places.Places(("all rows",), counts[None])
    found = differences.compare(pair, counts, at, moved=0.1, random=200, seed=0)
    np.testing.assert_allclose(np.linalg.norm(found.random, axis=1), 1.0)
    # The column has 900 times the variance of each of the 23 others; a mean that is not taken out would be all of it.
    assert np.mean(found.random[:, 4] ** 2) > 0.7
    assert abs(np.mean(np.sign(found.random[:, 4]))) < 0.3


# --- in words ---------------------------------------------------------------------------------------------------


def test_share_of_a_vocabulary():
    np.testing.assert_array_equal(vocabulary.share_of(np.array([[77, 3], [4, 5]]), np.array([77])), [0.5, 0.0])


def test_a_shift_along_an_unembedding_row_promotes_its_token(tmp_path):
    directory = make_model(tmp_path / "model")
    head = pretrained.load(directory).get_output_embeddings().weight.detach().numpy()
    direction = head[300] / np.linalg.norm(head[300])
    x = np.random.default_rng(0).normal(size=(N_DOCUMENTS * LENGTH, 32)).astype(np.float32)
    tokens = tmp_path / "tokens.h5"
    write_tokens(tokens, np.repeat(np.arange(N_DOCUMENTS), LENGTH))
    with artifacts.create(tmp_path / "own.h5", "tokens", {}) as file:
        file.array("token", np.full(500, 300, dtype=np.int32))
        file.array("counts", np.ones(500, dtype=bool))
    known = {"models": [directory] * 2, "corpora": stage.Corpora(tmp_path / "own.h5", tokens), "lens": 4}
    files = compare(x, x + direction, tokens, tmp_path / "means.h5", **known)
    best = ranked(files).findings[0].candidate
    with artifacts.read(files["means"], "means") as file:
        lens, random = artifacts.read_table(file, "lens"), file["random_own_share"][:]
        own = artifacts.read_json(file, "own_vocabulary")
        promoted = json.loads(lens["promoted"][0])
    assert own == [promoted[0]]
    assert best.words[0] == promoted[0]
    assert set(lens["own_share"]) == {0.25}
    assert random.shape == (2, 20)
    assert random.mean() < 0.1
    pair, _ = pair_of(x, x + direction, tokens)
    linear_map_stage.fit(pair, tmp_path / "map.h5", spec={}, directions=1, contexts=2, bootstrap=10)
    steered = {**files, "linear_map": str(tmp_path / "map.h5")}
    item = directions.select(steered, top=1, matched=0, random=0, latents=0, seed=0).items[0]
    assert (item.method, item.side) == ("means", "B")
    assert item.direction @ direction > 0.99
    assert set(item.words) <= {word.strip().lower() for word in best.words}
    cell = {"id": "x", "a": "a", "b": "b", "site_b": "middle", "files": files}
    assert f'"{section.visible(promoted[0])}"' in section.SECTIONS.opening(cell)
    assert "own words" in str(section.section(cell, Text(tokens), 3, frozenset({f"B {best.id}"})))


# --- from models to findings ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny model, the same with a planted direction, and its tokens."""
    place = tmp_path_factory.mktemp("models")
    texts = make_texts(place / "texts", "old", 100, repeats=2)
    corpora.fetch(place / "corpus", spec={}, sources={"old": {"kind": "local", "paths": [str(texts / "*.txt")]}})
    make_model(place / "base")
    prepared = {"tokens": None, "sequence_length": 48}
    token_files.prepare(place / "corpus", place / "base", place / "tokens.h5", spec={}, **prepared)
    concept = {"layer": 1, "concept": ["nations", "treasury"], "size": 1.0}
    plant.plant(place / "base", place / "tokens.h5", place / "planted", spec={}, **concept)
    return place


def stored_pair(models, tmp_path, b, **settings):
    """Both models' rows from files: A is the base model in float32, and all is stored in bfloat16."""
    files = []
    for name, model, dtype in (("a", "base", "float32"), ("b", *b)):
        shard = tmp_path / f"{name}.h5"
        dump.dump(models / model, models / "tokens.h5", shard, spec={}, sites=["middle"], dtype=dtype, device="cpu",
                  measure_precision=False, **settings)  # fmt: skip
        gates.gate([shard], models / "tokens.h5", tmp_path / f"{name}-gates.h5", spec={})
        files.append(
            rows.RowFiles([str(shard)], str(tmp_path / f"{name}-gates.h5"), str(models / "tokens.h5"), "middle")
        )
    return rows.stored_with_first(files, 5)


def compared(models, tmp_path, b, **settings):
    pair, counts = stored_pair(models, tmp_path, b, **settings)
    directories = [models / "base", models / b[0]]
    stage.compare(
        pair, counts, Text(models / "tokens.h5"), tmp_path / "means.h5", spec={}, models=directories, moved=0.02
    )
    return ranked({"means": str(tmp_path / "means.h5")})


def test_a_planted_edit_is_found_with_its_tokens(models, tmp_path):
    made = compared(models, tmp_path, ("planted", "float32"))
    truth = read_truth(str(models / "planted" / "truth.h5"))
    found = recovery(made, truth)
    assert found.written
    assert found.cosine >= 0.95
    moved = next(each.candidate for each in made.candidates if each.candidate.id == places.MOVED)
    assert moved.direction @ truth >= 0.95
    with artifacts.read(models / "planted" / "truth.h5", "truth") as file:
        score = file["score"][:]
    assert score[moved.rows[:5]].min() > np.quantile(score, 0.9)


@pytest.mark.parametrize("settings", [{}, {"first": 5}], ids=["all rows", "first rows"])
def test_a_model_in_bfloat16_is_the_same_model(models, tmp_path, settings):
    made = compared(models, tmp_path, ("base", "bfloat16"), **settings)
    assert len(made.candidates) > 5
    assert made.findings == []
    assert max(each.candidate.effect for each in made.candidates) < 0.05


def test_first_rows_alone_give_the_same_means_there(models, tmp_path):
    effects = []
    for name, settings in (("all", {}), ("first", {"first": 5})):
        (tmp_path / name).mkdir()
        made = compared(models, tmp_path / name, ("planted", "float32"), **settings)
        effects.append({each.candidate.id: each.candidate for each in made.candidates})
    for position in range(5):
        one, other = (of_rows[f"position {position}"] for of_rows in effects)
        assert abs(one.direction @ other.direction) > 0.99
    with artifacts.read(tmp_path / "first" / "means.h5", "means") as file:
        assert artifacts.read_json(file, "summary") == {"untested": "", "first_only": True}
