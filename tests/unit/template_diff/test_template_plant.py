"""The planted change: it is where it is said to be, and a template diff finds it if and only if it is large enough."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from diptych import methods
from diptych.activations.rows import in_memory
from diptych.candidates import ranking
from diptych.candidates.ranking import Threshold
from diptych.findings import conclusions
from diptych.storage import artifacts
from diptych.template_diff import candidates, stage
from diptych.template_diff import codes as template_codes
from diptych.template_diff import planted as template_plant

N, WIDTH, F = 120, 12, 30
ROLES = ("assistant", "newline")
LIMITS = Threshold(0.05, 0.5)


class Orthants:
    """relu(x W) over unit directions: a dictionary without training."""

    width, n_features, normalize_activations = WIDTH, F, "none"

    def __init__(self, seed: int = 0) -> None:
        rows = np.random.default_rng(seed).normal(size=(F, WIDTH)).astype(np.float32)
        self.W_dec = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.W_enc = np.ascontiguousarray(self.W_dec.T)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ torch.from_numpy(self.W_enc) - 1.0)

    def decode(self, codes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return codes @ torch.from_numpy(self.W_dec)


@pytest.fixture
def one():
    """Codes of one model beside itself at two roles, its rows, and the dictionary."""
    x = np.random.default_rng(1).normal(size=(2 * N, WIDTH)).astype(np.float32)
    dictionary = Orthants()
    codes = sparse.csr_array(dictionary.encode(torch.from_numpy(x)).numpy())
    rows = {role: np.arange(N) * 2 + place for place, role in enumerate(ROLES)}
    by_role = {role: sparse.csr_array(codes[at]) for role, at in rows.items()}
    units = dict.fromkeys(ROLES, np.arange(N))
    ids, source, fold = [str(i) for i in range(N)], np.zeros(N, dtype=np.int64), np.arange(N) % 5
    made = template_codes.Codes(by_role, by_role, ids, source, fold, ("all",), rows, units)
    return made, in_memory([x], np.repeat(np.arange(N), 2)), dictionary


def test_half_of_the_prompts_move_along_a_latent_that_seldom_fires(one):
    codes, rows, dictionary = one
    planted = template_plant.plant(codes, rows, dictionary, size=2.0, seed=0)
    for role in ROLES:
        before, after = codes.a[role].toarray(), planted.codes.b[role].toarray()
        moved = np.flatnonzero((before != after).any(axis=1))
        assert 0.4 * N <= len(moved) <= 0.5 * N
        latent = planted.latents[role]
        assert (before[:, latent] > 0).sum() == (before > 0).sum(axis=0).min()
        x = rows.take(codes.token_rows[role]).x[0]
        step = 2.0 * np.median(np.linalg.norm(x, axis=1)) * dictionary.W_dec[latent]
        expected = dictionary.encode(torch.from_numpy(x[moved] + step)).numpy()
        assert after[moved] == pytest.approx(expected, abs=1e-4)
        assert (after[moved, latent] > before[moved, latent]).all()


def test_the_same_seed_plants_the_same(one):
    again = [template_plant.plant(*one, size=1.0, seed=seed) for seed in (3, 3, 4)]
    assert again[0].latents == again[1].latents
    differences = [again[0].codes.b[role] - other.codes.b[role] for other in again[1:] for role in ROLES]
    assert [difference.nnz > 0 for difference in differences] == [False, False, True, True]


def write(tmp_path: Path, one, size: float) -> dict[str, str]:
    codes, rows, dictionary = one
    planted = template_plant.plant(codes, rows, dictionary, size=size, seed=0)
    out = [tmp_path / name for name in ("d.h5", "g.csv", "t.csv")]
    stage.diff(codes, *out, spec={}, planted=planted, flips=20, bootstrap=10)
    from safetensors.numpy import save_file

    with artifacts.create_directory(tmp_path / "dictionary", "dictionary", {}) as place:
        zeros = {"b_enc": np.zeros(F, np.float32), "b_dec": np.zeros(WIDTH, np.float32)}
        save_file({"W_dec": dictionary.W_dec, "W_enc": dictionary.W_enc, **zeros}, place / "sae_weights.safetensors")
        (place / "cfg.json").write_text('{"architecture": "standard", "d_in": 12, "apply_b_dec_to_input": true}')
    return {
        "name": "x",
        "diff": str(out[0]),
        "dictionary": str(tmp_path / "dictionary" / "manifest.json"),
        "tokens": "",
    }


def test_a_large_change_is_written_down_and_a_tiny_one_is_not(one, tmp_path):
    found = candidates.recovery_of(write(tmp_path / "large", one, 2.0), LIMITS)
    assert found is not None
    assert found.written
    assert found.cosine == pytest.approx(1.0)
    assert {role for role in ROLES if f"at {role}" in found.name} == set(ROLES)
    missed = candidates.recovery_of(write(tmp_path / "tiny", one, 0.001), LIMITS)
    assert missed is not None
    assert not missed.written


def test_silence_is_an_answer_only_where_the_planted_change_is_found(one, tmp_path):
    for name, size, status in (("large", 2.0, "none"), ("tiny", 0.001, "unclear")):
        run = write(tmp_path / name, one, size)
        silent = ranking.rank(candidates.candidates({"template_diffs": [run]}), LIMITS)
        assert silent.findings == []
        seen = candidates.recovery_of(run, LIMITS)
        said = conclusions.answer(
            "compared", methods.named("template"), silent, conclusions.PositiveControl("a copy", seen, [])
        )
        assert said.status == status, said.text


def test_a_diff_without_a_planted_change_has_no_yardstick(one, tmp_path):
    run = write(tmp_path, one, 1.0)
    stage.diff(one[0], run["diff"], tmp_path / "g.csv", tmp_path / "t.csv", spec={}, flips=20, bootstrap=10)
    assert candidates.recovery_of(run, LIMITS) is None


def test_any_position_plants_at_every_occurrence(one):
    codes, rows, dictionary = one
    at = np.arange(2 * N)
    units = at // 2
    every = sparse.csr_array(dictionary.encode(torch.from_numpy(rows.take(at).x[0])).numpy())
    token = template_codes.maximum_by_unit(every, units, N)
    anywhere = template_codes.Codes(
        {" the": token},
        {" the": token},
        codes.prompts,
        codes.source,
        codes.fold,
        ("all",),
        {" the": at},
        {" the": units},
    )
    planted = template_plant.plant(anywhere, rows, dictionary, size=2.0, seed=0)
    latent = planted.latents[" the"]
    gain = (planted.codes.b[" the"] - token).toarray()[:, latent]
    assert (gain > 0).sum() == N // 2
    assert anywhere.row_of(" the").tolist() == (2 * np.arange(N)).tolist()
