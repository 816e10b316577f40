"""Streamed predictions: the whole models' own probabilities, whatever the blocks, batches and lack of memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from diptych.models.batches import Sequences
from diptych.models.pretrained import OutOfMemoryError
from diptych.outputs import reading, states, streaming
from diptych.runtime.errors import DiptychError
from output_pairs import make_predictions, make_text, raise_logit
from tiny_models import make_model

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("outputs")
    make_model(place / "a")
    make_text(place, place / "a", documents=10)
    raise_logit(place / "a", place / "b", by=1.5, noise=0.1)
    return place


def sides_of(place: Path, models: tuple[str, str], text: reading.Reading, out: Path, dtype="float32") -> tuple:
    sides = []
    for number, name in enumerate(models):
        (out / str(number)).mkdir(parents=True)
        sides += states.read(place / name, [text], out / str(number), dtype=dtype, device="cpu")
    return tuple(sides)


def whole_probabilities(directory: Path, text: reading.Reading) -> np.ndarray:
    """Probabilities after every row of the reading, sequence by sequence from the whole model, float64 [n, V]."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    sequences, p = text.sequences, {}
    with torch.inference_mode():
        for sequence, length in zip(text.which, text.length, strict=True):
            start = int(sequences.start[sequence])
            ids = torch.from_numpy(sequences.token[start : start + length])[None]
            values = model(ids).logits[0].double().softmax(1).numpy()
            p |= {start + i: row for i, row in enumerate(values)}
    return np.stack([p[int(row)] for row in text.row])


def test_all_numbers_are_those_of_the_whole_models(place, tmp_path):
    text = reading.spread(Sequences.read(place / "tokens.h5"), None)
    found = streaming.compare(sides_of(place, ("a", "b"), text, tmp_path), text, tmp_path, block=7)
    p_a, p_b = (whole_probabilities(place / name, text) for name in "ab")
    exact = make_predictions(place, p_a, p_b, text)
    for name in ("kl_ab", "kl_ba", "js"):
        truth = getattr(exact, name)
        np.testing.assert_allclose(getattr(found, name), truth, rtol=0, atol=1e-4 * truth.max())
    assert (found.agrees == exact.agrees).mean() > 0.99  # ties of rounding
    own = text.next_token
    known = own >= 0
    truth = -np.log(p_b[known, own[known]])
    np.testing.assert_allclose(found.nll_b[known], truth, rtol=0, atol=1e-4 * truth.max())
    assert np.isnan(found.nll_a[~known]).all()
    np.testing.assert_allclose(found.totals, exact.totals, rtol=0, atol=1e-4 * exact.totals.max())
    tokens = np.array([5, 300])
    truth = exact.masses(tokens)
    np.testing.assert_allclose(found.masses(tokens), truth, rtol=0, atol=1e-4 * truth.max())
    np.testing.assert_allclose(found.raised.change, exact.raised.change, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.lowered.change, exact.lowered.change, rtol=0, atol=1e-5)
    assert (found.raised.token[:, 0] == exact.raised.token[:, 0]).mean() > 0.99
    assert np.abs(found.mined - exact.mined).sum() < 0.01 * exact.mined.sum()


def test_a_model_with_itself_differs_by_nothing_exactly(place, tmp_path):
    text = reading.spread(Sequences.read(place / "tokens.h5"), None)
    found = streaming.compare(sides_of(place, ("a", "a"), text, tmp_path), text, tmp_path)
    for values in (
        found.kl_ab,
        found.kl_ba,
        found.js,
        found.nll_b[~np.isnan(found.nll_b)] - found.nll_a[~np.isnan(found.nll_a)],
    ):
        assert not values.any()
    assert found.agrees.all()
    assert (found.raised.token == -1).all()
    assert not found.mined.any()
    assert np.array_equal(found.totals[0], found.totals[1])


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2", "neox", "mamba"])
def test_a_head_of_its_own_gives_the_models_logits(architecture, tmp_path):
    make_model(tmp_path / "a", architecture)
    make_text(tmp_path, tmp_path / "a", documents=10)
    text = reading.spread(Sequences.read(tmp_path / "tokens.h5"), None)
    (tmp_path / "states").mkdir()
    (side,) = states.read(tmp_path / "a", [text], tmp_path / "states", dtype="float32", device="cpu")
    p = whole_probabilities(tmp_path / "a", text)
    np.testing.assert_allclose(side.logits(0, len(text)).softmax(1).numpy(), p, rtol=0, atol=1e-5 * p.max())
    for vocabulary in (side.vocabulary, side.vocabulary - 3):  # all of it, and what another model shares
        out = torch.full((5, vocabulary), torch.nan)
        assert side.logits(2, 7, out=out) is out
        assert torch.equal(out, side.logits(2, 7)[:, :vocabulary])
    if architecture == "gemma2":  # whose soft cap bounds the logits
        assert side.head(1e4 * side.states(0, 4)).abs().max() <= 30.0


@pytest.mark.parametrize(("dtype", "bias"), [(torch.float32, True), (torch.bfloat16, False)])
def test_logits_are_written_where_they_are_wanted(place, dtype, bias):
    model = AutoModelForCausalLM.from_pretrained(place / "a", dtype=dtype)
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.linspace(-2, 2, model.config.vocab_size))
    width = model.config.hidden_size
    head, values = states.Head(model), torch.linspace(-1, 1, 3 * width).view(3, width)
    with torch.inference_mode():
        logits = head(values)
        out = torch.full_like(logits, torch.nan)
        assert head(values, out) is out
    np.testing.assert_allclose(out.numpy(), logits.numpy(), rtol=0, atol=1e-6 * float(logits.abs().max()))
    assert torch.equal(head(values), logits)  # later products do not write there


def test_a_model_whose_head_is_not_all_is_refused(place, tmp_path, monkeypatch):
    text = reading.spread(Sequences.read(place / "tokens.h5"), None)
    monkeypatch.setattr(states, "_trunk_states", lambda model, ids: 2 * model.base_model(input_ids=ids)[0] + 1)
    with pytest.raises(DiptychError, match="trunk and head apart do not give its logits"):
        states.read(place / "a", [text], tmp_path, dtype="float32", device="cpu")


def test_a_lack_of_memory_halves_blocks_and_batches(place, tmp_path, monkeypatch):
    text = reading.spread(Sequences.read(place / "tokens.h5"), None)
    sides = sides_of(place, ("a", "b"), text, tmp_path)
    first = streaming.compare(sides, text, tmp_path)
    read_batch = states._batch_states

    def short_batch(model, text, batch):
        if len(batch) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return read_batch(model, text, batch)

    compare_block = streaming._compare_block

    def short_block(sides, start, next_token, arrays):
        if len(next_token) > 3:
            raise MemoryError
        return compare_block(sides, start, next_token, arrays)

    monkeypatch.setattr(states, "_batch_states", short_batch)
    monkeypatch.setattr(streaming, "_compare_block", short_block)
    again = streaming.compare(sides_of(place, ("a", "b"), text, tmp_path / "again"), text, tmp_path / "again")
    np.testing.assert_allclose(again.kl_ab, first.kl_ab, rtol=0, atol=1e-4 * first.kl_ab.max())
    np.testing.assert_allclose(again.totals, first.totals, rtol=0, atol=1e-5 * first.totals.max())

    def no_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(streaming, "_compare_block", no_memory)
    with pytest.raises(OutOfMemoryError, match="one position of 400 tokens"):
        streaming.compare(sides, text, tmp_path)
    monkeypatch.setattr(states, "_batch_states", no_memory)
    with pytest.raises(OutOfMemoryError, match="out of memory at one sequence"):
        sides_of(place, ("a", "b"), text, tmp_path / "none")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same(place, tmp_path):
    text = reading.spread(Sequences.read(place / "tokens.h5"), None)
    found = {}
    for device in ("cpu", "cuda"):
        sides = []
        for name in "ab":
            (tmp_path / device / name).mkdir(parents=True)
            sides += states.read(place / name, [text], tmp_path / device / name, dtype="float32", device=device)
        found[device] = streaming.compare(tuple(sides), text, tmp_path / device)
    for name in ("kl_ab", "js", "totals"):
        cpu, gpu = (getattr(found[device], name) for device in ("cpu", "cuda"))
        np.testing.assert_allclose(gpu, cpu, rtol=0, atol=1e-3 * cpu.max())


def test_the_largest_entries_are_those_of_a_sort():
    values = torch.randn(5, 64 * 120, generator=torch.Generator().manual_seed(0))
    found, columns = streaming._largest(values, 50)
    exact = values.topk(50)
    assert torch.equal(found, exact.values)
    assert torch.equal(columns, exact.indices)
