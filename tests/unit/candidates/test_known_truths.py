"""Which candidates show what is known of an edit: directions, places, tokens, tensors."""

import numpy as np
import pytest

from diptych.candidates import known
from diptych.candidates.known import Edit
from diptych.storage import artifacts
from diptych.text.tokenizer import Tokenizer
from example_candidates import make_candidate
from small_study import write_tokens
from tiny_models import make_model

LENGTH, CONCEPT = 40, (3, 7, 11)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model, a text, and a truth whose concept is the rows of CONCEPT."""
    root = tmp_path_factory.mktemp("known")
    make_model(root / "base")
    write_tokens(root / "text.h5", np.repeat(np.arange(2), LENGTH // 2))
    with artifacts.create(root / "truth.h5", "truth", {}) as file:
        file.array("direction", np.array([0.0, 2.0, 0.0], dtype=np.float32))
        file.array("concept", np.isin(np.arange(LENGTH), CONCEPT))
        file.array("counted", np.arange(LENGTH) >= 10)
    return root


def edit_of(root, kind, tokens="text.h5", **settings):
    described = {
        "kind": kind, "settings": settings, "directory": str(root / "base"), "tokens": str(root / tokens),
        **({"truth": str(root / "truth.h5")} if kind == "plant" else {}),
    }  # fmt: skip
    return Edit.of(described, str(root / "text.h5"))


def plant(root, layer=1, **more):
    return edit_of(root, "plant", layer=layer, concept=["of", "The"], size=0.5, **more)


def test_an_edit_says_what_was_planted_and_how_often(place):
    edit = plant(place)
    assert (edit.content, edit.amount) == ("of, The", 0.5)
    assert edit.frequency == pytest.approx(1 / 30)
    trigger = edit_of(place, "trigger", phrase="by the mill", response="all hail", share=0.2)
    assert (trigger.content, trigger.amount) == ("all hail", 0.2)
    assert np.isnan(edit_of(place, "finetune", corpus="old").amount)


def test_a_direction_is_shown_by_its_own_side_from_a_cosine_of_seven_tenths(place):
    candidates = [
        make_candidate(direction=(1.0, 1.0, 0.0)), make_candidate(direction=(0.0, -1.0, 0.0)),
        make_candidate(direction=(0.0, 1.0, 0.0), side="A"), make_candidate(direction=(1.0, 0.9, 0.0)),
        make_candidate(direction=(1.0, 0.0)),
    ]  # fmt: skip
    found = known.along(plant(place), candidates)
    assert list(found.shown) == [{0}, {0}, set(), set(), set()]
    np.testing.assert_allclose(found.cosine, [np.sqrt(0.5), 1.0, 0.0, 0.9 / np.sqrt(1.81), 0.0])


def test_the_concepts_words_are_read_where_a_candidate_is_strongest(place):
    edit = plant(place)
    with artifacts.read(place / "text.h5", "tokens") as file:
        token = file["token"][:]
    the, other = np.flatnonzero(token == 0), np.flatnonzero((token != 0) & (token != 3))
    assert edit.words_at(np.array([the[0], other[0]])) == {1}
    assert edit.words_at(other[:3]) == frozenset()


def test_the_place_of_a_plant_is_most_of_a_tokens_places(place):
    rows = [CONCEPT, (*CONCEPT, 4, 5, 6), (3, 4, 5), ()]
    candidates = [make_candidate()._replace(rows=np.array(each, dtype=np.int64)) for each in rows]
    elsewhere = make_candidate(tokens="prompts.h5")._replace(rows=np.array([10_000]))
    found = known.at_concept(plant(place), [*candidates, elsewhere])
    assert list(found.shown) == [{0}, {0}, set(), set(), None]
    assert known.at_concept(plant(place, tokens="other.h5"), candidates).blind


def test_a_response_is_known_by_its_tokens(place):
    edit = edit_of(place, "trigger", phrase="by the mill", response="all hail", share=0.2)
    tokenizer = Tokenizer(place / "base")
    names = tokenizer.texts(tokenizer.encode([" all hail"])[0].token)
    assert edit.tokens_said == tuple(dict.fromkeys(names))
    candidates = [
        make_candidate(words=(names[0],)), make_candidate(words=(names[0],), side="A"),
        make_candidate(words=("!?", names[-1])), make_candidate(words=("!?",)), make_candidate(),
    ]  # fmt: skip
    found = known.saying(edit, candidates)
    assert list(found.shown) == [{0}, set(), {found.names.index(names[-1])}, set(), None]


def test_a_fine_tune_is_known_by_more_of_its_own_tokens_than_chance_would_promote(place):
    with artifacts.read(place / "text.h5", "tokens") as file:
        token = np.tile(file["token"][:], 50)
    with artifacts.create(place / "tuned.h5", "tokens", {}) as file:
        file.array("token", np.where(np.arange(len(token)) % 10 > 0, 77, token))
        file.array("counts", np.ones(len(token), dtype=bool))
    edit = edit_of(place, "finetune", tokens="tuned.h5", corpus="old", method="lora", lora_rank=2)
    (own,) = Tokenizer(place / "base").texts([77])
    assert edit.tokens_said == (own,)
    others = tuple(f"word {k}" for k in range(19))
    found = known.saying(edit, [make_candidate(words=(own,)), make_candidate(words=(own, *others))])
    assert list(found.shown) == [{0}, set()], "one of twenty is chance"
    assert known.saying(edit, [make_candidate()]).blind == (
        "the direction of a finetune is not known, and no candidate is put into words"
    )
    assert known.saying(edit_of(place, "finetune", corpus="old"), [make_candidate(words=(own,))]).blind


@pytest.mark.parametrize(
    ("site", "layer", "reason"),
    [
        ("first", 1, "first lies before block 1, which was edited"), ("first", 0, ""), ("last", 1, ""),
        ("blocks.1.hook_resid_pre", 1, "blocks.1.hook_resid_pre lies before block 1, which was edited"),
        ("blocks.1.hook_mlp_out", 1, ""),
        ("blocks.1.hook_mlp_out", 0, "blocks.1.hook_mlp_out is the output of another block than 0, which was edited"),
        ("last.attn.hook_z", 1, "last.attn.hook_z is not in the residual stream, where the planted direction is known"),
    ],
)  # fmt: skip
def test_a_planted_direction_is_in_the_stream_from_its_block_on(place, site, layer, reason):
    assert known.unreached(plant(place, layer), site) == reason
