"""A model's tokenizer: text and conversations to tokens that know which characters they stand for.

    tokenizer = Tokenizer("results/models/base")
    tokenizer.encode(["Fellow citizens"])[0]
    # Encoded(token=[41, 802, 3350], span=[[0, 6], [6, 12], [12, 15]])

Only fast tokenizers know their characters. Two models read the same rows iff `tokenizer_hash` is equal.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.models import pretrained
from diptych.runtime.errors import DiptychError, first_line
from diptych.storage import artifacts, manifest
from diptych.storage.canonical import canonical_json
from diptych.text import templates
from diptych.text.corpora.corpus import Document

Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]
TEMPLATE_DATE = "26 Jul 2024"
"""Date given to templates that print today's: the same inputs give the same text."""
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of tokenizers that have no code of their own: `AutoTokenizer` would give the same, and import torch."""


class UnreadableError(DiptychError):
    """A conversation that cannot be read: `cause` is `too_long` or `refused` (by the template)."""

    def __init__(self, message: str, cause: Literal["too_long", "refused"]) -> None:
        super().__init__(message)
        self.cause = cause


class Encoded(NamedTuple):
    """Token ids int32 [k] and their character spans int32 [k, 2] in the text they came from."""

    token: Int32Array
    span: Int32Array


class Tokenizer:
    """A fast tokenizer from a local directory."""

    def __init__(self, directory: str | Path) -> None:
        """Load it.

        Raises:
            DiptychError: there is no tokenizer.json, or it is broken.
        """
        self.hash = tokenizer_hash(directory)
        self._tokenizer = _load(Path(directory))
        self._directory = directory

    @cached_property
    def prefix(self) -> list[int]:
        """Ids that the tokenizer itself puts before a text: BOS, or nothing."""
        bare = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self._tokenizer("a")["input_ids"]
        starts = [at for at in range(len(full) - len(bare) + 1) if full[at : at + len(bare)] == bare]
        return list(full[: starts[0]]) if starts else []

    @property
    def end_of_text(self) -> int:
        """The id that separates packed documents."""
        if self._tokenizer.eos_token_id is None:
            raise DiptychError(
                f"{self._directory}: `pack` needs a tokenizer with an end-of-text token; set pack: false"
            )
        return int(self._tokenizer.eos_token_id)

    @property
    def bos_text(self) -> str:
        """The text of BOS, which templates write into the text."""
        return self._tokenizer.bos_token or ""

    @property
    def template(self) -> str:
        """The tokenizer's own chat template."""
        if not self.has_template:
            raise DiptychError(
                f"{self._directory}: the tokenizer has no chat template; set `template` to one of "
                f"{', '.join(templates.NAMED)} or to Jinja text"
            )
        source: str = self._tokenizer.chat_template
        return source

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer has a chat template of its own."""
        return isinstance(self._tokenizer.chat_template, str)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokens of each text without inserted ones."""
        batch = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [
            Encoded(np.array(ids, dtype=np.int32), np.array(spans, dtype=np.int32).reshape(-1, 2))
            for ids, spans in zip(batch["input_ids"], batch["offset_mapping"], strict=True)
        ]

    def render(self, source: str, messages: templates.Messages, generation_prompt: bool) -> str:
        """Apply a chat template, without the BOS that `prefix` already holds."""
        text: str = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=source,
            tokenize=False,
            add_generation_prompt=generation_prompt,
            date_string=TEMPLATE_DATE,
        )
        return text.removeprefix(self.bos_text) if self.prefix else text

    def texts(self, ids: Iterable[int]) -> list[str]:
        """The text that each id adds: decoded behind another token, since some decoders strip a leading space."""
        anchor = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        before = self._tokenizer.decode(anchor)
        return [_storable(self._tokenizer.decode([*anchor, int(i)]).removeprefix(before)) for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a sequence of ids, special tokens included."""
        return _storable(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _storable(text: str) -> str:
    """NUL, which HDF5 cannot hold in a text, as its picture."""
    return text.replace("\0", "\u2400")


def _load(directory: Path) -> Any:
    """The tokenizer as transformers reads it; one that says it is just its tokenizer.json does without torch."""
    manifest.check(directory, "*.json", "*.txt", "*.model", "*.jinja")
    config = directory / "tokenizer_config.json"
    kind = _read_json(config).get("tokenizer_class") if config.is_file() else None
    try:
        if kind in GENERIC_CLASSES:
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(str(directory))
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(directory), trust_remote_code=pretrained.trusts(directory))
    except Exception as error:  # tokenizers has no class of error of its own
        message = first_line(error)
        raise DiptychError(f"{directory}: its tokenizer cannot be read ({message}); fetch or save it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DiptychError(f"{path}: not JSON ({first_line(error)}); fetch or save the tokenizer again") from error
    if not isinstance(stored, dict):
        raise DiptychError(f"{path}: not a JSON object; fetch or save the tokenizer again")
    return stored


def tokenizer_hash(directory: str | Path) -> str:
    """sha256 of what decides a text's ids: vocabulary, merges, normalizer, pre-tokenizer and added tokens.

    How ids become text, padding, BOS insertion and the chat template are left out: a base model and its chat model
    differ in these and still read the same ids.

    Raises:
        DiptychError: there is no tokenizer.json, or it is broken.
    """
    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise DiptychError(f"{directory}: no tokenizer.json; save the model with a fast tokenizer")
    stored = _read_json(path)
    if not isinstance(stored.get("model"), dict):
        raise DiptychError(f"{path}: holds no `model`, so it is no fast tokenizer; fetch or save it again")
    model = dict(stored["model"])
    model["merges"] = [" ".join(merge) if isinstance(merge, list) else merge for merge in model.get("merges") or []]
    added = sorted((token["id"], token["content"]) for token in stored.get("added_tokens") or [])
    reads = [model, stored.get("normalizer"), stored.get("pre_tokenizer"), added]
    return hashlib.sha256(canonical_json(reads).encode()).hexdigest()


def check_tokenizer(model_dir: str | Path, tokens_path: str | Path) -> None:
    """Raise `DiptychError` if the model's tokenizer is not the one that made the tokens."""
    with artifacts.read(tokens_path, "tokens") as file:
        expected = artifacts.read_json(file, "tokenizer")
    if tokenizer_hash(model_dir) != expected:
        raise DiptychError(
            f"{model_dir}: its tokenizer is not the one that made {tokens_path}; "
            "give the model its own tokens (`tokenizer` of the model) or align the two"
        )


class Chat:
    """Conversations to tokens with roles."""

    def __init__(
        self, tokenizer: Tokenizer, template: str, positions: Mapping[str, int] | None, generation_prompt: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._generation_prompt = generation_prompt
        named = templates.NAMED.get(template)
        self._source = named.source if named else tokenizer.template if template == "model" else template
        if not templates.is_known(template):
            raise DiptychError(f"template: {template!r} is none of model, {', '.join(templates.NAMED)}, nor Jinja text")
        defaults = dict(named.positions) if named else templates.positions(self._source)
        named_positions = {name: templates.Position(offset) for name, offset in (positions or {}).items()}
        self.positions = defaults if positions is None else named_positions
        """Named tokens of the last assistant header."""
        self._expected: dict[str, int] = {}

    def encode(self, document: Document, limit: int) -> tuple[str, Encoded, npt.NDArray[np.int8]]:
        """Rendered text, tokens and roles of a conversation, its last user turn shortened to fit `limit` tokens.

        Raises:
            UnreadableError: it cannot be rendered or shortened; the document is named.
            DiptychError: a named position is absent; the document is named.
        """
        messages = [dict(message) for message in document.messages or []]
        while True:
            rendered = self._render(document.id, messages)
            encoded = self._tokenizer.encode([rendered.text])[0]
            if len(encoded.token) <= limit:
                role = self._roles(document.id, rendered, encoded)
                return rendered.text, encoded, role
            messages = self._shorten(document.id, messages, len(encoded.token) - limit)

    def _render(self, name: str, messages: templates.Messages) -> templates.Rendered:
        try:
            return templates.render(
                lambda some, prompt: self._tokenizer.render(self._source, some, prompt),
                messages,
                generation_prompt=self._generation_prompt,
            )
        except templates.TemplateError as error:
            raise UnreadableError(f"{name}: {error}", "refused") from error
        except Exception as error:  # a template raises whatever its author chose
            message = f"the chat template refuses it ({first_line(error)}); set `template`"
            raise UnreadableError(f"{name}: {message}", "refused") from error

    def _shorten(self, name: str, messages: list[dict[str, str]], excess: int) -> list[dict[str, str]]:
        """Cut `excess` tokens from the end of the last user turn: the header behind it must stay."""
        last = max((i for i, turn in enumerate(messages) if turn["role"] == "user"), default=None)
        encoded = self._tokenizer.encode([messages[last]["content"]])[0] if last is not None else None
        if last is None or encoded is None or len(encoded.token) <= excess:
            raise UnreadableError(f"{name}: longer than `sequence_length` even without its last user turn", "too_long")
        end = int(encoded.span[len(encoded.token) - excess, 0])
        shorter = {"role": "user", "content": messages[last]["content"][:end].rstrip()}
        return [*messages[:last], shorter, *messages[last + 1 :]]

    def _roles(self, name: str, rendered: templates.Rendered, encoded: Encoded) -> npt.NDArray[np.int8]:
        """A token has the role of the character it begins with; named positions go over the last header's."""
        starts = np.array([segment.start for segment in rendered.segments])
        codes = np.array([templates.ROLES.index(segment.role) for segment in rendered.segments], dtype=np.int8)
        role = codes[np.searchsorted(starts, encoded.span[:, 0], side="right") - 1]
        headers = [segment for segment in rendered.segments if segment.role == "assistant_header"]
        for number, position in enumerate(self.positions, len(templates.ROLES)):
            role[self._token_at(name, position, headers[-1] if headers else None, rendered.text, encoded)] = number
        return role

    def _token_at(self, name: str, position: str, last: templates.Segment | None, text: str, encoded: Encoded) -> int:
        """The token of a named position: the same token in every prompt, and the end of its text where that is known.

        A tokenizer may cut a marker's text into several tokens (SmolLM2: ass, istant): its last one is taken.
        """
        offset, expected = self.positions[position]
        start, end = (last.start, last.end) if last else (0, 0)
        header = np.flatnonzero((encoded.span[:, 0] >= start) & (encoded.span[:, 1] <= end))
        token = int(header[-1]) + offset if len(header) else -1
        if expected is not None:
            at = text.rfind(expected, start, end)
            token = _ends_at(encoded, header, at + len(expected) if at >= 0 else -1)
        if token in header:
            self._require_same(name, position, int(encoded.token[token]))
            return token
        segment_text = f", which is {text[start:end]!r}" if last else ""
        raise DiptychError(
            f"{name}: the template position {position!r} ({offset}) is absent from the last "
            f"assistant header{segment_text}; "
            "check `positions` and `template`"
        )

    def _require_same(self, name: str, position: str, token: int) -> None:
        known = self._expected.setdefault(position, token)
        if known != token:
            was, now = self._tokenizer.texts([known, token])
            raise DiptychError(
                f"{name}: the template position {position!r} is the token {now!r}, and {was!r} in earlier prompts; "
                "choose a `template` whose header this tokenizer always cuts alike, or other `positions`"
            )


def _ends_at(encoded: Encoded, header: IntArray, end: int) -> int:
    """The last token of the header that ends with character `end`, or -1."""
    ends = header[encoded.span[header, 1] == end]
    return int(ends[-1]) if len(ends) else -1


def inserted(ids: Sequence[int]) -> Encoded:
    """Tokens that stand for no character."""
    return Encoded(np.array(ids, dtype=np.int32), np.full((len(ids), 2), -1, dtype=np.int32))


def concatenate(parts: Sequence[Encoded]) -> Encoded:
    """The parts' tokens one after another."""
    return Encoded(np.concatenate([part.token for part in parts]), np.concatenate([part.span for part in parts]))
