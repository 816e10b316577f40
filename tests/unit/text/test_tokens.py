"""Tokens: exact budgets spread over many documents, spans that point at their text, and what counts."""

import itertools
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from diptych.config import loading
from diptych.config.jobs import Jobs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.text import passages, templates, tokens
from diptych.text.corpora import stage
from diptych.text.corpora.corpus import Corpus, Document
from diptych.text.tokenizer import Tokenizer, tokenizer_hash
from tiny_models import make_texts, make_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tokens")
    texts = make_texts(make_texts(place / "texts", "old", 12), "new", 7, repeats=9)
    sources = {name: {"kind": "local", "paths": [str(texts / f"{name}-*.txt")]} for name in ("old", "new")}
    stage.fetch(place / "corpus", spec={}, sources=sources)
    make_tokenizer(place / "plain")
    make_tokenizer(place / "bos", bos=True)
    make_tokenizer(place / "small", vocabulary=300)
    return place


def prepare(place: Path, out: Path, *, tokenizer: str = "plain", corpus: str = "corpus", **settings: Any) -> h5py.File:
    chosen = {"tokens": 600, "sequence_length": 16, **settings}
    tokens.prepare(place / corpus, place / tokenizer, out, spec={}, **chosen)
    return artifacts.read(out, "tokens")


def per_source(file: h5py.File) -> dict[str, int]:
    source = file["documents/source"][:][file["sequences/document"][:]][file["sequence"][:]]
    return {name: int((source == n).sum()) for n, name in enumerate(artifacts.read_json(file, "sources"))}


def test_budget_is_exact_and_shared(place: Path, tmp_path: Path) -> None:
    assert per_source(prepare(place, tmp_path / "a.h5", tokens=601)) == {"new": 300, "old": 301}
    shares = {"old": 3.0, "new": 1.0}
    assert per_source(prepare(place, tmp_path / "b.h5", shares=shares)) == {"new": 150, "old": 450}
    with pytest.raises(DiptychError, match="name each source"):
        prepare(place, tmp_path / "c.h5", shares={"old": 1.0})


def test_budget_is_spread_over_all_documents(place: Path, tmp_path: Path) -> None:
    file = prepare(place, tmp_path / "a.h5")
    number = np.bincount(file["sequences/document"][:])
    source = file["documents/source"][:]
    assert len(number) == 19
    for name in (0, 1):
        assert np.ptp(number[source == name]) <= 1
    starts = file["char_span"][:][file["sequences/start"][:-1], 0]
    assert len(np.unique(starts)) > 19, "windows begin at random places"


def test_spans_point_at_the_tokens_own_text(place: Path, tmp_path: Path) -> None:
    file = prepare(place, tmp_path / "a.h5", tokenizer="bos")
    texts = {document.id: document.text or "" for document in _documents(place)}
    ids = artifacts.read_strings(file, "documents/id")
    word = dict(zip(file["vocabulary/id"][:].tolist(), artifacts.read_strings(file, "vocabulary/text"), strict=True))
    document = file["sequences/document"][:][file["sequence"][:]]
    for row in range(0, 600, 7):
        start, end = file["char_span"][row]
        if start >= 0:
            assert texts[ids[document[row]]][start:end].strip() == word[int(file["token"][row])].strip()


def test_sequences_and_positions(place: Path, tmp_path: Path) -> None:
    file = prepare(place, tmp_path / "a.h5")
    start = file["sequences/start"][:]
    assert (start[0], start[-1]) == (0, 600)
    assert np.diff(start).max() == 16
    for number, (first, last) in enumerate(itertools.pairwise(start)):
        assert (file["sequence"][first:last] == number).all()
        assert (file["position"][first:last] == np.arange(last - first)).all()
        spans = file["char_span"][first:last]
        assert (np.diff(spans[:, 1]) >= 0).all()


def test_windows_of_a_document_do_not_overlap(place: Path, tmp_path: Path) -> None:
    file = prepare(place, tmp_path / "a.h5", tokens=None)
    document = file["sequences/document"][:]
    start, span = file["sequences/start"][:], file["char_span"][:]
    for number in np.unique(document):
        mine = np.flatnonzero(document == number)
        first, last = span[start[mine], 0], span[start[mine + 1] - 1, 1]
        assert (first[1:] >= last[:-1]).all()


def test_bos_is_inserted_where_the_tokenizer_does_and_does_not_count(place: Path, tmp_path: Path) -> None:
    file = prepare(place, tmp_path / "a.h5", tokenizer="bos", skip_first=0)
    first = file["sequences/start"][:-1]
    assert (file["token"][:][first] == 0).all()
    assert (file["char_span"][:][first] == -1).all()
    assert (file["counts"][:] == (file["position"][:] > 0)).all()
    plain = prepare(place, tmp_path / "b.h5", skip_first=2)
    assert (plain["char_span"][:] >= 0).all()
    assert (plain["counts"][:] == (plain["position"][:] >= 2)).all()


def test_nul_characters_are_read_and_shown_as_their_picture(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(6):
        (tmp_path / "texts" / f"{number}.txt").write_bytes(f"document {number} with \0 in it ".encode() * 5)
    source = {"kind": "local", "paths": [str(tmp_path / "texts" / "*.txt")]}
    stage.fetch(tmp_path / "corpus", spec={}, sources={"x": source})
    make_tokenizer(tmp_path / "plain")
    file = prepare(tmp_path, tmp_path / "a.h5", tokens=90)
    words = artifacts.read_strings(file, "vocabulary/text")
    assert "\u2400" in "".join(words)
    assert "\0" not in "".join(words)


def test_folds_are_balanced_and_agree_between_tokenizers_and_budgets(place: Path, tmp_path: Path) -> None:
    a = prepare(place, tmp_path / "a.h5", tokens=200)
    b = prepare(place, tmp_path / "b.h5", tokens=None, tokenizer="small")
    folds = [
        dict(zip(artifacts.read_strings(f, "documents/id"), f["documents/fold"][:].tolist(), strict=True))
        for f in (a, b)
    ]
    assert folds[0].items() <= folds[1].items()
    for source in (0, 1):
        number = np.bincount(b["documents/fold"][:][b["documents/source"][:] == source], minlength=5)
        assert np.ptp(number) <= 1


def test_two_tokenizers_read_the_same_windows(place: Path, tmp_path: Path) -> None:
    begins = []
    for tokenizer in ("plain", "small"):
        file = prepare(place, tmp_path / f"{tokenizer}.h5", tokenizer=tokenizer)
        ids = artifacts.read_strings(file, "documents/id")
        first = file["char_span"][:][file["sequences/start"][:-1], 0]
        begins.append({(ids[d], int(s)) for d, s in zip(file["sequences/document"][:], first, strict=True)})
    assert begins[0] == begins[1]


def test_same_inputs_give_the_same_bytes_and_another_seed_does_not(place: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(place, tmp_path / f"{name}.h5", seed=seed).close()
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    a, c = (artifacts.read(tmp_path / f"{name}.h5", "tokens") for name in "ac")
    assert not np.array_equal(a["token"][:], c["token"][:])


def test_too_little_text_and_too_few_documents(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match=r"source 'new' has text for .* of 500,000 tokens"):
        prepare(place, tmp_path / "a.h5", tokens=1_000_000)
    with pytest.raises(DiptychError, match="'new' has 7 documents, fewer than the 9 folds"):
        prepare(place, tmp_path / "a.h5", folds=9)


def test_packing_fills_sequences_within_a_fold_and_source(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(40):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"short text {number}. ")
    stage.fetch(
        tmp_path / "corpus", spec={}, sources={"x": {"kind": "local", "paths": [str(tmp_path / "texts" / "*.txt")]}}
    )
    make_tokenizer(tmp_path / "plain")
    settings = {"tokens": 200, "sequence_length": 32, "characters_per_token": 2.0}
    alone = prepare(tmp_path, tmp_path / "alone.h5", **settings)
    packed = prepare(tmp_path, tmp_path / "packed.h5", pack=True, **settings)
    assert np.diff(alone["sequences/start"][:]).max() < 20
    assert (np.diff(packed["sequences/start"][:])[:-1] == 32).mean() > 0.7
    separator = packed["token"][:] == 0
    assert separator.any()
    assert not packed["counts"][:][separator].any()
    original = dict(zip(artifacts.read_strings(alone, "documents/id"), alone["documents/fold"][:], strict=True))
    for name, fold in zip(artifacts.read_strings(packed, "documents/id"), packed["documents/fold"][:], strict=True):
        assert {original.get(part, fold) for part in name.split(" + ")} == {fold}


def test_common_prefix() -> None:
    rows = [np.array(row, dtype=np.int32) for row in ([1, 2, 3, 4], [1, 2, 5], [1, 2, 3])]
    assert tokens.common_prefix(rows) == 2
    assert tokens.common_prefix(rows[:1]) == 0
    assert tokens.common_prefix([rows[0], rows[0]]) == 4


def test_snap_moves_to_words_and_gives_up_without_spaces() -> None:
    assert passages.snap("the quick brown fox", 2, 12) == (4, 16)
    assert passages.snap("x" * 500, 100, 300) == (100, 300)


# --- conversations ------------------------------------------------------------------------------------------------


def chat_corpus(place: Path, conversations: list[list[dict[str, str]]], **more: Any) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "chat.jsonl").write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in conversations))
    source = {"kind": "local", "paths": [str(place / "chat.jsonl")], **more}
    stage.fetch(place / "corpus", spec={}, sources={"chat": source})
    make_tokenizer(place / "plain")
    return place


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_roles_and_named_positions(tmp_path: Path) -> None:
    place = chat_corpus(tmp_path, [user(f"What of the road {n}?") for n in range(6)])
    file = prepare(place, tmp_path / "a.h5", tokens=None, sequence_length=64, folds=3)
    roles = artifacts.read_json(file, "roles")
    assert roles == [*templates.ROLES, "im_start", "assistant", "newline"]
    word = dict(zip(file["vocabulary/id"][:].tolist(), artifacts.read_strings(file, "vocabulary/text"), strict=True))
    first, last = file["sequences/start"][:2]
    said = [(roles[file["role"][row]], word[int(file["token"][row])]) for row in range(first, last)]
    assert said[-3:] == [("im_start", "<|im_start|>"), ("assistant", "assistant"), ("newline", "\n")]
    assert "".join(text for role, text in said if role == "user").startswith("What of the road")
    assert said[0] == ("template", "<|im_start|>")
    prefix = artifacts.read_json(file, "common_prefix")
    assert prefix >= 3, "the opening of the turn is common to all prompts"
    assert not file["counts"][:][file["position"][:] < prefix].any()


MARKERS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "\n\n"),
    "gemma": ("<start_of_turn>", "<end_of_turn>", "\n"),
}
HEADERS = {
    "chatml": [("@im_start", "<|im_start|>"), ("@assistant", "assistant"), ("@newline", "\n")],
    "llama3": [
        ("assistant_header", "<|start_header_id|>"),
        ("@asst", "assistant"),
        ("@endheader", "<|end_header_id|>"),
        ("@newline", "\n\n"),
    ],
    "gemma": [("assistant_header", "<start_of_turn>"), ("@model", "model"), ("@newline", "\n")],
}
ANSWER = "The assistant met the model.\n\nIt is an assistant\nand a model."


def spoken(file: h5py.File, sequence: int) -> list[tuple[str, str]]:
    """(role, text) of the stretches of one sequence that have one role; named positions begin with @."""
    named = [f"@{name}" for name in artifacts.read_json(file, "named_positions")]
    roles = [*templates.ROLES, *named]
    word = dict(zip(file["vocabulary/id"][:].tolist(), artifacts.read_strings(file, "vocabulary/text"), strict=True))
    first, last = file["sequences/start"][sequence : sequence + 2]
    said = [(roles[file["role"][row]], word[int(file["token"][row])]) for row in range(first, last)]
    return [(role, "".join(text for _, text in some)) for role, some in itertools.groupby(said, lambda pair: pair[0])]


@pytest.mark.parametrize("name", sorted(MARKERS))
@pytest.mark.parametrize("answered", [False, True])
def test_named_positions_are_those_of_the_last_header(tmp_path: Path, name: str, answered: bool) -> None:
    answer = [{"role": "assistant", "content": ANSWER}]
    turns = [[*user(f"Is {n} a model?"), *answer, *user(f"And {n}?"), *(answer if answered else [])] for n in range(4)]
    place = chat_corpus(tmp_path, turns)
    # "model" is one token to Gemma, as "assistant" is to the tokenizer of these tests.
    make_tokenizer(place / name, markers=(*MARKERS[name], "model"), template=None)
    settings = {"tokens": None, "sequence_length": 400, "folds": 3, "template": name}
    file = prepare(place, tmp_path / "a.h5", tokenizer=name, **settings)
    header = "".join(text for _, text in HEADERS[name])
    for sequence in range(4):
        said = spoken(file, sequence)
        assert [text for role, text in said if role == "user"][1].startswith("And")
        assert [text for role, text in said if role == "assistant"] == [ANSWER] * (1 + answered)
        assert next(text for role, text in said if role == "assistant_header") == header, "of the first answer"
        opened = next(place for place, pair in enumerate(said) if pair[0].startswith("@"))
        opened -= HEADERS[name][0][0] == "assistant_header"
        assert said[opened : opened + len(HEADERS[name])] == HEADERS[name]
        assert [role for role, _ in said[opened + len(HEADERS[name]) :]] == ["assistant", "template"] * answered


def test_long_prompts_are_cut_before_the_template(tmp_path: Path) -> None:
    place = chat_corpus(tmp_path, [user("consider the roads " * (20 + n)) for n in range(3)])
    file = prepare(place, tmp_path / "a.h5", tokens=None, sequence_length=24, folds=3)
    lengths = np.diff(file["sequences/start"][:])
    assert lengths.max() <= 24
    assert lengths.min() >= 20
    ends = file["sequences/start"][1:] - 1
    assert (file["role"][:][ends] == artifacts.read_json(file, "roles").index("newline")).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positions": {"far": -30}}, "chat/chat.jsonl:\\d: the template position 'far'"),
        ({"generation_prompt": False}, "the template position 'im_start'"),
        ({"sequence_length": 5}, "chat/chat.jsonl:\\d: longer than `sequence_length`"),
        ({"template": "chatlm"}, "'chatlm' is none of model, plain"),
        ({"template": "{{ raise_exception('no user') }}"}, "refuses it .no user"),
    ],
)
def test_bad_conversations_name_the_prompt(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    place = chat_corpus(tmp_path, [user(f"Roads {n}") for n in range(3)])
    with pytest.raises(DiptychError, match=message):
        prepare(place, tmp_path / "a.h5", **{"tokens": None, "sequence_length": 64, "folds": 3, **settings})


LONG = [*user("Hi"), {"role": "assistant", "content": "roads " * 90}, *user("And?")]
REFUSED = [*user("Hi"), {"role": "assistant", "content": "refuse me"}]
REFUSES = "{% if messages[-1]['content'] == 'refuse me' %}{{ raise_exception('no') }}{% endif %}"


def test_conversations_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    place = chat_corpus(tmp_path, [*(user(f"Roads {n}") for n in range(9)), LONG, [*LONG, *user("No?")], REFUSED])
    settings = {"sequence_length": 64, "folds": 3, "template": REFUSES + templates.NAMED["chatml"].source}
    file = prepare(place, tmp_path / "a.h5", tokens=None, **settings)
    summary = artifacts.read_json(file, "summary")["chat"]
    assert (summary["documents"], summary["too_long"], summary["refused"]) == (9, 2, 1)
    assert len(file["documents/text_hash"]) == len(file["sequences/document"]) == 9
    every = len(file["token"])
    budget = prepare(place, tmp_path / "b.h5", tokens=every, **settings)
    np.testing.assert_array_equal(budget["token"][:], file["token"][:])
    with pytest.raises(DiptychError, match=f"source 'chat' has text for {every} of {every + 1} tokens"):
        prepare(place, tmp_path / "c.h5", tokens=every + 1, **settings)


def test_a_source_that_is_mostly_left_out_is_an_error(tmp_path: Path) -> None:
    many = [[*user(f"Roads {n}"), *LONG[1:]] for n in range(5)]
    place = chat_corpus(tmp_path / "many", [*(user(f"Roads {n}") for n in range(4)), *many])
    for budget in (None, 300):
        with pytest.raises(DiptychError, match=r"'chat': 5 of 9 conversations left out \(5 longer than .*raise `seq"):
            prepare(place, tmp_path / "b.h5", tokens=budget, sequence_length=64, folds=3)
    few = chat_corpus(tmp_path / "few", [*(user(f"Roads {n}") for n in range(2)), LONG])
    with pytest.raises(DiptychError, match="too few are left for 3 folds"):
        prepare(few, tmp_path / "b.h5", tokens=None, sequence_length=64, folds=3)


@pytest.mark.parametrize("settings", [{"template": "{{ raise_exception('no') }}"}, {"sequence_length": 5}])
def test_a_drawn_prompt_that_cannot_be_read_is_an_error(tmp_path: Path, settings: dict[str, Any]) -> None:
    drawn = {"rule": "first_turn", "number": 9, "seed": 0}
    asks = [*(user(f"Roads {n}") for n in range(8)), user("refuse me")]
    place = chat_corpus(tmp_path, asks, prompts=drawn)
    chosen = {"tokens": None, "sequence_length": 64, "folds": 3, "template": REFUSES + templates.NAMED["chatml"].source}
    with pytest.raises(DiptychError, match=r"chat/chat.jsonl:9: the chat template refuses it \(no\); set `template`$"):
        prepare(place, tmp_path / "a.h5", **chosen)
    mixed = {"chat": {"kind": "corpus", "corpus": "corpus"}}
    stage.fetch(place / "mixed", spec={}, sources=mixed, corpora_dir=place)
    with pytest.raises(DiptychError, match=r"^chat/chat/chat.jsonl:\d: "):
        prepare(place, tmp_path / "a.h5", corpus="mixed", **{**chosen, **settings})


GEMMA_IT = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + templates.NAMED["gemma"].source
)


def test_the_crosscoder_study_reads_whole_conversations_in_one_template(tmp_path: Path) -> None:
    """Base without a chat template, chat with its own: both read chats and web text to the same tokens."""
    path = Path(__file__).parents[3] / "config" / "studies" / "crosscoder-gemma-2-2b.yaml"
    study = loading.load(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert study.tokenizer("chat") == study.tokenizer("base") == "base"
    chats = [[*user(f"Is {n} a road?"), {"role": "assistant", "content": f"Yes,\n\n{n} is."}] for n in range(6)]
    chats.append([{"role": "system", "content": "Be brief."}, *chats[0]])
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps({"conversation": turns}) + "\n" for turns in chats))
    web = make_texts(tmp_path / "web", "web", 6)
    sources = {
        "lmsys": {"kind": "local", "paths": [str(tmp_path / "chat.jsonl")], "column": "conversation"},
        "pile": {"kind": "local", "paths": [str(web / "*.txt")]},
    }
    stage.fetch(tmp_path / "corpus", spec={}, sources=sources)
    for model, template in (("base", None), ("chat", GEMMA_IT)):
        make_tokenizer(tmp_path / model, bos=True, template=template, markers=MARKERS["gemma"])
    settings = {**Jobs(study).prepare_tokens("held_out", "base").settings, "tokens": 200}
    base, chat = (
        prepare(tmp_path, tmp_path / f"{model}.h5", tokenizer=model, **settings) for model in ("base", "chat")
    )
    np.testing.assert_array_equal(base["token"][:], chat["token"][:])
    np.testing.assert_array_equal(base["role"][:], chat["role"][:])
    assert artifacts.read_json(base, "summary")["lmsys"]["refused"] == 0
    assert {"assistant", "user"} <= {role for role, _ in spoken(base, 0)}


def test_a_marker_cut_into_pieces_is_known_by_its_last_one(tmp_path: Path) -> None:
    place = chat_corpus(tmp_path, [user(f"Roads {n}") for n in range(3)])
    make_tokenizer(place / "small", vocabulary=262)  # cuts "assistant" into letters: -2 is not <|im_start|>
    file = prepare(place, tmp_path / "a.h5", tokenizer="small", tokens=None, sequence_length=64, folds=3)
    text = dict(zip(file["vocabulary/id"][:].tolist(), artifacts.read_strings(file, "vocabulary/text"), strict=True))
    named = {role: text[token] for token, role in zip(file["token"][:].tolist(), file["role"][:], strict=True)}
    first = len(templates.ROLES)
    assert named[first] == "<|im_start|>"
    assert "assistant".endswith(named[first + 1])
    assert len(named[first + 1]) < len("assistant")
    assert named[first + 2] == "\n"


def test_a_position_that_is_another_token_in_another_prompt_is_an_error(tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}{{ m['role'] }} {{ loop.index }}\n{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant {{ messages | length + 1 }}{% endif %}"
    )
    turns = [[*user(f"Roads {n}"), *(user("More") if n == 2 else [])] for n in range(3)]
    place = chat_corpus(tmp_path, turns)
    with pytest.raises(DiptychError, match=r"'number' is the token '[23]', and '[23]' in"):
        settings = {"template": source, "positions": {"number": 0}, "tokens": None, "sequence_length": 64, "folds": 3}
        prepare(place, tmp_path / "a.h5", **settings)


def test_a_position_outside_the_header_is_absent(tmp_path: Path) -> None:
    place = chat_corpus(tmp_path, [user(f"Roads {n}") for n in range(3)])
    with pytest.raises(DiptychError, match=r"'before' \(-9\) is absent from the last assistant header, which is '<"):
        prepare(place, tmp_path / "a.h5", tokens=None, sequence_length=64, folds=3, positions={"before": -9})


def test_a_template_that_begins_with_bos_keeps_it_where_the_tokenizer_adds_none(tmp_path: Path) -> None:
    """SmolLM2's BOS is <|im_start|>, which every turn begins with, and its tokenizer puts none before a text."""
    place = chat_corpus(tmp_path, [user(f"Roads {n}") for n in range(3)])
    config = make_tokenizer(place / "turns") / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"bos_token": "<|im_start|>"}))
    file = prepare(place, tmp_path / "a.h5", tokenizer="turns", tokens=None, sequence_length=64, folds=3)
    text = dict(zip(file["vocabulary/id"][:].tolist(), artifacts.read_strings(file, "vocabulary/text"), strict=True))
    assert text[int(file["token"][0])] == "<|im_start|>"


def test_a_tokenizer_without_a_template_says_what_to_do(tmp_path: Path) -> None:
    place = chat_corpus(tmp_path, [user(f"Roads {n}") for n in range(3)])
    make_tokenizer(place / "bare", template=None)
    with pytest.raises(DiptychError, match="no chat template; set `template`"):
        prepare(place, tmp_path / "a.h5", tokenizer="bare", tokens=None, sequence_length=64, folds=3)
    file = prepare(
        place, tmp_path / "a.h5", tokenizer="bare", tokens=None, sequence_length=64, folds=3, template="plain"
    )
    assert artifacts.read_json(file, "named_positions") == ["colon"]


# --- tokenizers ---------------------------------------------------------------------------------------------------


def test_hash_is_of_what_decides_the_ids(place: Path, tmp_path: Path) -> None:
    assert tokenizer_hash(place / "plain") == tokenizer_hash(place / "bos"), "BOS insertion is not reading"
    assert tokenizer_hash(place / "plain") != tokenizer_hash(place / "small")
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(place / "plain").save_pretrained(tmp_path / "again")
    assert tokenizer_hash(tmp_path / "again") == tokenizer_hash(place / "plain")
    with pytest.raises(DiptychError, match=r"no tokenizer\.json"):
        tokenizer_hash(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json: not JSON .*; fetch or save"),
        ("tokenizer.json", "[]", r"tokenizer\.json: not a JSON object; fetch or save"),
        ("tokenizer.json", "{}", r"tokenizer\.json: holds no `model`"),
        ("tokenizer.json", '{"model": {"type": "BPE"}}', r"its tokenizer cannot be read \(.*\); fetch or save"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json: not JSON"),
    ],
)
def test_a_broken_tokenizer_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (make_tokenizer(tmp_path) / name).write_text(content)
    with pytest.raises(DiptychError, match=message) as caught:
        Tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_vocabulary_text_keeps_leading_spaces(place: Path) -> None:
    tokenizer = Tokenizer(place / "plain")
    text = "the treasury in good order"
    assert "".join(tokenizer.texts(tokenizer.encode([text])[0].token)) == text


def _documents(place: Path) -> list[Document]:
    corpus = Corpus(place / "corpus")
    return list(corpus.documents(range(len(corpus))))
