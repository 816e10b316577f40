"""Steering: what is added, what it does, what is measured, on tiny models and against closed forms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import small_study
from diptych.activations import rows
from diptych.affine_maps import affine
from diptych.dictionaries import sae
from diptych.linear_map import stage as linear_map_stage
from diptych.models import lens as logit_lens
from diptych.models import pretrained
from diptych.models.hooks import Loader
from diptych.models.sites import resolve_site
from diptych.oracle import planted
from diptych.runtime.errors import DiptychError
from diptych.steering import directions, effects, explanation, stage, writing
from diptych.steering import section as report_steering
from diptych.steering.intervention import Edit, Intervention, decode_greedily, measure, sample
from diptych.text.tokenizer import Tokenizer
from tiny_models import make_model

PROMPT = np.array([7, 30, 12, 99], dtype=np.int64)
ARCHITECTURES = ("llama", "gpt2", "neox", "gemma2", "mamba", "mamba2")
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, tmp_path_factory):
    return pretrained.load(make_model(tmp_path_factory.mktemp(request.param) / "model", request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("llama") / "model", "llama")


def residual(model, ids, edit, hook=HOOK):
    """The residual stream behind block 1 with an edit at `hook`."""
    caught = []
    with Intervention(model, hook, edit):
        from diptych.models.hooks import find_blocks

        block = find_blocks(model, 3)[1]
        handle = block.register_forward_hook(lambda m, a, out: caught.append(out[0] if isinstance(out, tuple) else out))
        with torch.inference_mode():
            model(input_ids=torch.from_numpy(ids)[None].expand(len(edit.vectors), -1), use_cache=False)
        handle.remove()
    return caught[0]


def test_what_is_added_is_the_vector_and_nothing_else(model):
    vectors = torch.randn(2, 32)
    before = residual(model, PROMPT, Edit(torch.zeros(2, 32), first=2))
    after = residual(model, PROMPT, Edit(vectors, first=2))
    added = after - before
    torch.testing.assert_close(added[:, 2:], vectors[:, None].expand(-1, 2, -1), atol=1e-5, rtol=1e-5)
    assert (added[:, :2] == 0).all()


def test_one_position_and_replacement(model):
    vectors = torch.randn(1, 32)
    before = residual(model, PROMPT, Edit(torch.zeros(1, 32), first=0))
    one = residual(model, PROMPT, Edit(vectors, first=1, last=1))
    changed = (one - before).abs().sum(dim=-1)[0] > 0
    assert changed.tolist() == [False, True, False, False]
    replaced = residual(model, PROMPT, Edit(vectors, first=0, replaces=True, only=(1, 3)))
    assert torch.equal(replaced[0, 1], vectors[0])
    assert torch.equal(replaced[0, 3], vectors[0])
    assert torch.equal(replaced[0, 2], before[0, 2])


def test_before_a_block_is_behind_the_one_before_it(model):
    vectors = torch.randn(1, 32)
    behind = residual(model, PROMPT, Edit(vectors, first=1), "blocks.0.hook_resid_post")
    before = residual(model, PROMPT, Edit(vectors, first=1), "blocks.1.hook_resid_pre")
    torch.testing.assert_close(behind, before)


def test_zero_strength_is_the_model_left_alone_to_the_bit(model):
    uniform = np.random.default_rng(0).random((3, 6))
    alone = sample(model, PROMPT, uniform, 6, HOOK, None)
    pushed = sample(model, PROMPT, uniform, 6, HOOK, Edit(torch.zeros(3, 32), first=3))
    assert np.array_equal(alone.tokens, pushed.tokens)
    assert torch.equal(alone.log_p, pushed.log_p)
    assert np.abs(measure(model, PROMPT, pushed).kl).max() < 1e-5


def test_the_cache_changes_nothing(model):
    """Greedy text, token by token with a cache, is the argmax of one pass over the whole text."""
    edit = Edit(4 * torch.randn(2, 32, generator=torch.Generator().manual_seed(0)), first=3)
    text = decode_greedily(model, PROMPT, 5, HOOK, edit)
    ids = torch.cat([torch.from_numpy(PROMPT).expand(2, -1), torch.from_numpy(text)], dim=1)
    with torch.inference_mode(), Intervention(model, HOOK, edit):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits[:, len(PROMPT) - 1 :]
    assert np.array_equal(logits.argmax(dim=-1).numpy(), text)


def test_measured_numbers_equal_their_definition(model):
    edit = Edit(2 * torch.randn(1, 32, generator=torch.Generator().manual_seed(1)), first=3)
    sampled = sample(model, PROMPT, np.random.default_rng(1).random((1, 4)), 4, HOOK, edit)
    tokens, seen = sampled.tokens, measure(model, PROMPT, sampled)
    ids = torch.from_numpy(np.concatenate([PROMPT, tokens[0]]))[None]
    with torch.inference_mode():
        q = model(input_ids=ids).logits[0, 3:-1].double().softmax(-1)
        with Intervention(model, HOOK, edit):
            p = model(input_ids=ids).logits[0, 3:-1].double().softmax(-1)
    np.testing.assert_allclose(seen.kl[0], (p * (p / q).log()).sum(-1), atol=1e-5)
    np.testing.assert_allclose(seen.surprise[0], -q[range(4), tokens[0]].log(), atol=1e-5)


def test_tokens_are_drawn_from_the_models_distribution(llama):
    model = pretrained.load(llama)
    uniform = (np.arange(4000)[:, None] + 0.5) / 4000
    drawn = sample(model, PROMPT, uniform, 1, HOOK, None).tokens[:, 0]
    with torch.inference_mode():
        p = model(input_ids=torch.from_numpy(PROMPT)[None]).logits[0, -1].softmax(-1).numpy()
    assert np.abs(np.bincount(drawn, minlength=400) / 4000 - p).max() < 1e-3


def test_lens_reads_the_unembedding(tmp_path):
    model = pretrained.load(make_model(tmp_path / "model", "llama"))
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((3, 32))
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    logits = logit_lens.lens(model, unit, 100.0)
    W = model.get_output_embeddings().weight.detach().numpy() * model.model.norm.weight.detach().numpy()
    np.testing.assert_allclose(logits, np.sqrt(32) * unit @ W.T, rtol=1e-3, atol=1e-3)


def test_lens_leaves_out_the_norms_bias(tmp_path):
    model = pretrained.load(make_model(tmp_path / "model", "gpt2"))
    with torch.no_grad():
        model.transformer.ln_f.bias += torch.randn(32)
    direction = np.eye(32, dtype=np.float32)[:1]
    np.testing.assert_allclose(
        logit_lens.lens(model, direction, 50.0), -logit_lens.lens(model, -direction, 50.0), atol=1e-4
    )


def test_explanation_depends_on_the_direction_only_through_the_placeholder(llama):
    model, tokenizer = pretrained.load(llama), Tokenizer(llama)
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((2, 32)).astype(np.float32)
    said = explanation.explain(model, tokenizer, unit, [1.0, 30.0], 6)
    assert [len(row) for row in said] == [2, 2]
    assert said[0][1] != said[1][1]
    again = explanation.explain(model, tokenizer, unit[::-1].copy(), [1.0, 30.0], 6)
    assert again[::-1] == said


def test_only_the_residual_stream_can_be_steered(llama):
    with pytest.raises(DiptychError, match="not in the residual stream"):
        decode_greedily(pretrained.load(llama), PROMPT, 1, "blocks.0.attn.hook_q", Edit(torch.zeros(1, 32), 0))
    assert resolve_site("middle", 3) == HOOK


# --- the stage ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A planted pair of activations of width 32, its linear map, its text, and two tiny models of that width."""
    root = tmp_path_factory.mktemp("steering")
    made = planted.make_pair(
        1, labels={"only_B": 1, "only_A": 1}, n_documents=60, tokens_per_document=40, d_A=32, d_B=32, n_features=30,
        same_map=True,
    )  # fmt: skip
    small_study.write_tokens(root / "tokens.h5", made.document)
    small_study.write_gates(root / "gates.h5", len(made.document))
    both = rows.in_memory([made.x_A, made.x_B], made.document, fold=made.document % 5, source=made.document % 2)
    linear_map_stage.fit(both, root / "linear_map.h5", spec={}, directions=3, contexts=8, bootstrap=100)
    for name, seed in (("a", 0), ("b", 1)):
        make_model(root / name, seed=seed)
    return root


SETTINGS = {
    "strengths": (0.5, 4.0), "prompts": ("The", "Our army"), "chat": False, "positions": "generated", "samples": 2,
    "length": 5, "batch": 7, "seed": 0,
}  # fmt: skip


def run(place, out, models_of=("a", "b"), **settings):
    files = {name: str(place / f"{name}.h5") for name in ("linear_map",)}
    files |= {f"tokens_{side}": str(place / "tokens.h5") for side in "ab"}
    sides = {
        side: stage.Side(place / name, place / "gates.h5", "middle", "float32")
        for side, name in zip("AB", models_of, strict=True)
    }
    given = {**SETTINGS, "top": 2, "random": 3, "explain_length": 3, **settings}
    stage.steer(files, sides, out / "steering.h5", out / "steering.tsv", spec={}, **given)
    return effects.read(out / "steering.h5")


@pytest.fixture(scope="module")
def steered(place, tmp_path_factory):
    return run(place, tmp_path_factory.mktemp("out"))


def test_trials_are_every_direction_at_every_strength(steered):
    roles = list(zip(steered.trials["model"], steered.trials["role"], strict=True))
    assert len(steered.items["id"]) == 2
    for side in "AB":
        assert roles.count((side, "unsteered")) == 1
        assert roles.count((side, "random")) == 3 * 2
    assert sum(role in ("own", "transfer") for _, role in roles) == 2 * 2 * 2
    assert len(steered.texts["text"]) == len(roles) * 2 * 2
    assert set(steered.items["side"]) <= {"A", "B"}


def test_stronger_pushes_move_further(steered):
    kl = steered.trials["kl"]
    weak, strong = (kl[steered.trials["strength"] == c].mean() for c in (0.5, 4.0))
    assert strong > 2 * weak > 0
    assert np.abs(kl[steered.trials["role"] == "unsteered"]).max() < 1e-5


def test_what_is_added_has_the_stated_length(place, steered, monkeypatch):
    lengths = []
    whole = writing.sample

    def watched(model, prompt, uniform, length, hook, edit):
        lengths.extend(edit.vectors.norm(dim=1).tolist())
        return whole(model, prompt, uniform, length, hook, edit)

    monkeypatch.setattr(writing, "sample", watched)
    run(place, place / "again")
    assert {round(length / 4.0, 4) for length in lengths} == {0.0, 0.5, 4.0}  # the gates say a median norm of 4


def test_the_same_seed_writes_the_same_and_batches_do_not_matter(place, steered, tmp_path):
    again = run(place, tmp_path, batch=64)
    assert list(again.texts["text"]) == list(steered.texts["text"])
    np.testing.assert_allclose(again.trials["kl"], steered.trials["kl"], atol=1e-5)
    other = run(place, tmp_path / "other", seed=5)
    assert list(other.texts["text"]) != list(steered.texts["text"])


def test_transfer_into_the_same_model_by_the_identity_is_own(place, tmp_path, monkeypatch):
    """With one model on both sides and the identity as map, a transferred direction does what its own does."""
    identity = affine.LinearMap(np.eye(32), np.zeros(32), np.zeros(32))
    monkeypatch.setattr(affine, "load", lambda file, direction: identity)
    found = run(place, tmp_path, models_of=("a", "a"))
    kl, role, item = (found.trials[name] for name in ("kl", "role", "item"))
    for number in range(len(found.items["id"])):
        own, moved = (kl[(role == name) & (item == number)] for name in ("own", "transfer"))
        np.testing.assert_allclose(own, moved, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.agreement["cosine"], 1.0, atol=1e-4)


def test_causal_is_the_ratio_to_random_directions(steered):
    trials = steered.trials
    side, method, name = (steered.items[key][0] for key in ("side", "method", "id"))
    mine = (trials["model"] == side) & (trials["strength"] > 0)
    own = trials["kl"][mine & (trials["role"] == "own") & (trials["item"] == 0)]
    chance = trials["kl"][mine & (trials["role"] == "random")].reshape(3, 2).mean(axis=0)
    effect = steered.causal[side, method, name]
    assert effect.ratio == pytest.approx(np.exp(np.log(own / chance).mean()))
    assert effect.strongest_random >= 1.0
    assert list(steered.promoted[side, method, name]) == json.loads(
        steered.lens["promoted"][(steered.lens["role"] == "own") & (steered.lens["item"] == 0)][0]
    )


def test_shares_count_the_items_words(place, tmp_path):
    """An item whose words are all words has a share of one, whatever is written."""
    item = directions.Item("linear_map", "x", "A", np.ones(32), ("the",))
    written = writing.Written([], np.array([[[[1, 2, 1, 3]]]]), np.array([[[[True, True, True, False]]]]), None,
                              np.zeros((1, 1)), {1: " The", 2: "cat", 3: " the"}, [])  # fmt: skip
    written.trials.append(writing.Trial(directions.Run("own", 0, "x", np.ones(32)), 1.0))
    from diptych.steering.record import _side_shares

    assert _side_shares([item], written)[0, 0] == pytest.approx(2 / 3)


def test_texts_end_with_the_first_end_of_text():
    counted = writing._counted(np.array([[5, 0, 7, 0]]), frozenset([0]))
    assert counted.tolist() == [[True, True, False, False]]


def test_lens_and_explanations_are_of_the_items(steered):
    assert set(steered.lens["role"]) == {"own", "transfer"}
    assert all(len(json.loads(tokens)) == 10 for tokens in steered.lens["promoted"])
    assert set(steered.explanations["scale"]) == {1.0, 2.0, 4.0}


def test_table_as_text_holds_every_trial(place, tmp_path):
    found = run(place, tmp_path, explain_scales=())
    lines = (tmp_path / "steering.tsv").read_text().splitlines()
    assert lines[0].split("\t") == list(effects.TRIAL_COLUMNS)
    assert len(lines) == 1 + len(found.trials["role"])
    assert not len(found.explanations["text"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "newline"}, "steering.positions: 'newline' is none of generated, last; positions of the chat"),
        ({"positions": "nowhere", "chat": True}, "none of generated, last, im_start, assistant, newline"),
        ({"length": 500}, "steering.length: a prompt of"),
    ],
)
def test_bad_settings_are_one_line(place, tmp_path, change, message):
    with pytest.raises(DiptychError, match=message):
        run(place, tmp_path, **change)


def test_a_named_position_is_one_token_of_the_header(place, tmp_path):
    found = run(place, tmp_path, positions="newline", chat=True)
    assert (found.trials["kl"][found.trials["strength"] == 4.0] > 0).all()


def test_a_model_with_itself_has_nothing_to_steer(place, tmp_path):
    """No direction is found and the residual has no covariance to draw from: no item, no trial, a file that says so."""
    same = planted.identical_pair(0, n_documents=40, d_A=32, d_B=32)
    linear_map_stage.fit(same.rows(), tmp_path / "linear_map.h5", spec={}, directions=2, contexts=4, bootstrap=20)
    for name in ("tokens", "gates"):
        (tmp_path / f"{name}.h5").write_bytes((place / f"{name}.h5").read_bytes())
    for name in "ab":
        (tmp_path / name).symlink_to(place / name)
    found = run(tmp_path, tmp_path, models_of=("a", "a"))
    assert not len(found.items["id"])
    assert not len(found.trials["role"])
    assert not found.causal
    assert "There is no candidate" in str(report_steering.section(
        {"id": "x", "a": "a", "b": "a", "files": {"steering": str(tmp_path / "steering.h5")}}
    ))  # fmt: skip


def test_widths_may_differ(tmp_path):
    """A's directions reach a wider model through the map."""
    made = planted.make_pair(1, labels={"only_B": 1}, n_documents=60, tokens_per_document=40, d_A=24, d_B=32,
                             n_features=20)  # fmt: skip
    both = rows.in_memory([made.x_A, made.x_B], made.document, fold=made.document % 5)
    linear_map_stage.fit(both, tmp_path / "linear_map.h5", spec={}, directions=2, contexts=4, bootstrap=50)
    small_study.write_tokens(tmp_path / "tokens.h5", made.document)
    files = {"linear_map": tmp_path / "linear_map.h5", "tokens_a": tmp_path / "tokens.h5",
             "tokens_b": tmp_path / "tokens.h5"}  # fmt: skip
    plan = directions.select(files, top=2, matched=0, random=1, latents=0, seed=0)
    assert {run.direction.shape for run in plan.runs["A"]} == {(24,)}
    assert {run.direction.shape for run in plan.runs["B"]} == {(32,)}
    assert len(plan.runs["A"]) == len(plan.runs["B"]) == 3


def test_hooked_and_steered_sites_are_the_same_place(llama):
    """What `Loader` reads at a site is what an intervention changes there."""
    loaded = Loader(llama, ["middle"], "cpu").load("float32")
    read = loaded(torch.from_numpy(PROMPT)[None])["middle"]
    torch.testing.assert_close(read, residual(pretrained.load(llama), PROMPT, Edit(torch.zeros(1, 32), 0)))


@pytest.mark.gpu
def test_gpu_and_cpu_agree(place, steered, tmp_path):
    """A text is drawn by the same numbers; near a boundary of two tokens a device may draw the other one."""
    gpu = run(place, tmp_path, device="cuda:0")
    assert np.mean(np.array(gpu.texts["text"]) == np.array(steered.texts["text"])) > 0.9
    kl = steered.trials["kl"]
    close = np.abs(gpu.trials["kl"] - kl) < 1e-3 * kl.max()
    assert close.mean() > 0.9


def study_files():
    """The files of the small study's pair `tuned`, as `directions.select` reads them."""
    return next(pair["files"] for pair in small_study.shared()["pairs"] if pair["name"] == "tuned")


def test_named_features_are_steered_along_with_their_matches():
    files = study_files()
    plan = directions.select(files, top=0, matched=1, random=0, latents=0, seed=0, features={"A": [0, 3], "B": [5]})
    matched = next(item for item in plan.items if item.method == "matched")
    named = [item for item in plan.items if item.method == "named"]
    assert [(item.side, item.id) for item in named] == [("A", "0"), ("A", "3"), ("B", "5")]
    row = sae.load(Path(files["dictionary_b"]).parent).W_dec[5].astype(np.float64)
    np.testing.assert_allclose(named[2].direction, row / np.linalg.norm(row))
    # The best match of all, asked for by name, is the same item.
    latent, partner = (int(part) for part in matched.id.split("--"))
    by_name = directions.select(
        files, top=0, matched=0, random=0, latents=0, seed=0, features={"A": [latent], "B": [partner]}
    )
    np.testing.assert_allclose(by_name.items[0].match, matched.match)
    np.testing.assert_allclose(by_name.items[1].match, matched.direction)
    assert directions.select(files, top=0, matched=0, random=0, latents=0, seed=0).items == []


def test_a_feature_that_the_dictionary_lacks_is_refused():
    with pytest.raises(DiptychError, match=r"steering.features: 999 of a dictionary of \d+ features") as caught:
        directions.select(study_files(), top=0, matched=0, random=0, latents=0, seed=0, features={"A": [999], "B": []})
    assert "\n" not in str(caught.value)
