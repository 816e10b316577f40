"""Several chat templates in one tokenizer: a name chooses."""

import json

import pytest
from transformers import AutoTokenizer

from diptych.models import chat_templates, sources
from diptych.runtime.errors import DiptychError
from diptych.text.tokenizer import Tokenizer
from tiny_models import CHATML, make_model

RAG = "{% for m in messages %}[rag {{ m['role'] }}]{{ m['content'] }}{% endfor %}"
NAMED = {"default": CHATML, "rag": RAG, "tool_use": "{{ messages | length }}"}
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def source(tmp_path):
    make_model(tmp_path / "source", layers=1)
    (tmp_path / "source" / "chat_template.jinja").unlink()
    return tmp_path / "source"


def in_config(place, templates):
    path = place / "tokenizer_config.json"
    listed = [{"name": name, "template": template} for name, template in templates.items()]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": listed}))


def in_files(place, templates):
    (place / "additional_chat_templates").mkdir()
    for name, template in templates.items():
        file = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
        (place / file).write_text(template)


def by_transformers(place, templates):
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(place)


def fetch(source, out, **settings):
    sources.fetch(out, spec={}, source={"kind": "directory", "path": str(source)} | settings)
    return out


@pytest.mark.parametrize("write", [in_config, in_files, by_transformers])
@pytest.mark.parametrize("name", sorted(NAMED))
def test_the_named_template_is_the_models_own(write, name, source, tmp_path):
    write(source, NAMED)
    reference = AutoTokenizer.from_pretrained(source)
    assert reference.chat_template == NAMED
    out = fetch(source, tmp_path / "m", chat_template=name)
    tokenizer = Tokenizer(out)
    assert tokenizer.template == NAMED[name]
    text = tokenizer.render(tokenizer.template, MESSAGES, True)
    assert text == reference.apply_chat_template(
        MESSAGES, chat_template=name, tokenize=False, add_generation_prompt=True
    )
    assert not (out / "additional_chat_templates").exists()
    assert AutoTokenizer.from_pretrained(out).chat_template == NAMED[name]
    assert Tokenizer(out).hash == Tokenizer(source).hash


def test_the_default_one_is_used_where_none_is_named(source, tmp_path):
    in_config(source, NAMED)
    assert Tokenizer(fetch(source, tmp_path / "m")).template == CHATML


@pytest.mark.parametrize("write", [in_config, in_files])
@pytest.mark.parametrize(
    ("templates", "name", "message"),
    [
        (NAMED, "tool", r"no chat template is called 'tool' \(it has default, rag, tool_use\); set `chat_template`"),
        ({"rag": RAG, "more": RAG}, "default", r"no chat template is called 'default' \(it has more, rag\)"),
        ({"rag": RAG}, "default", r"\(it has rag\)"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(write, templates, name, message, source, tmp_path):
    write(source, templates)
    with pytest.raises(DiptychError, match=message) as caught:
        fetch(source, tmp_path / "m", chat_template=name)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("where", ["config", "file", "none"])
def test_one_template_without_a_name_stays_as_it_is(where, source, tmp_path):
    if where == "config":
        path = source / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": CHATML}))
    elif where == "file":
        in_files(source, {"default": CHATML})
    out = fetch(source, tmp_path / "m")
    assert (out / "chat_template.jinja").is_file() == (where == "file")
    assert Tokenizer(out).has_template == (where != "none")
    if where != "none":
        assert Tokenizer(out).template == CHATML
    known = "none" if where == "none" else "default"
    with pytest.raises(DiptychError, match=rf"no chat template is called 'rag' \(it has {known}\)"):
        fetch(source, tmp_path / "n", chat_template="rag")


@pytest.mark.parametrize("write", [in_config, in_files])
def test_an_only_template_that_has_a_name(write, source, tmp_path):
    write(source, {"rag": RAG})
    assert Tokenizer(fetch(source, tmp_path / "m", chat_template="rag")).template == RAG


@pytest.mark.parametrize("stored", [3, [3], [{"name": "rag"}]])
def test_broken_lists_of_templates(stored, source, tmp_path):
    path = source / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": stored}))
    with pytest.raises(DiptychError, match="`chat_template` is neither a template nor a list of named ones"):
        fetch(source, tmp_path / "m")


def test_templates_are_read_as_transformers_reads_them(source):
    in_config(source, {"default": "from the config", "rag": RAG})
    assert chat_templates.read(source) == AutoTokenizer.from_pretrained(source).chat_template
    in_files(source, {"default": CHATML, "more": RAG})
    assert chat_templates.read(source) == AutoTokenizer.from_pretrained(source).chat_template


def test_a_gguf_file_has_no_named_templates(tmp_path):
    (tmp_path / "x.gguf").touch()
    with pytest.raises(DiptychError, match="a GGUF file has one chat template and no names; take out chat_template"):
        fetch(tmp_path / "x.gguf", tmp_path / "m", chat_template="rag")
