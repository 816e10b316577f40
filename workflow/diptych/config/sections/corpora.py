"""The section `corpora`: sources of text, prompts drawn from them, and how much of each is read."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from diptych.config.sections.strict import Strict
from diptych.config.sections.values import (
    Alias,
    Distribution,
    PositiveFloat,
    PositiveInt,
    Seed,
    Sha256,
    Share,
    TokenCount,
    Version,
)


class Prompts(Strict):
    """User messages drawn from a source's documents, as prompts for the comparison at template tokens (METHODS 4)."""

    prose: ClassVar[frozenset[str]] = frozenset({"ask"})

    rule: Literal["first_turn", "document", "sentence"] = "first_turn"
    """Prompts of a document: a conversation's first user message, the whole text, or each sentence of 6 to 24 words."""
    number: PositiveInt = 1000
    """Prompts drawn at random, one from every document before a second one from any; duplicates count once."""
    ask: str | None = None
    """What the user says, with the drawn text in place of {sentence}: {sentence} itself for messages and documents,
    What does this mean? {sentence} for sentences, if not given."""
    seed: Seed = 0
    """Seed of the draw."""


class TextBase(Strict):
    """Keys of every source of text outside the study."""

    column: str = "text"
    """Field that holds a text or a conversation; `meta.text` is the field `text` inside `meta`. Where it is absent,
    `messages`, `conversation` or `conversations` is read. Conversations that cannot be read are left out, counted."""
    layout: Literal["auto", "column", "dialogue", "tree"] = "auto"
    """How a record holds a document: as it is in the column; as a `dialogue` in one text (HH-RLHF: Human:, Assistant:);
    as a message of a `tree`, whose best-ranked path is the conversation (OASST). auto: as the first record shows."""
    prompts: Prompts | None = None
    """Keep user messages drawn from the documents in place of the documents."""
    share: Share = 1.0
    """Weight of this source in the token budget, relative to the other sources."""


class WheelText(TextBase):
    """Text files inside a wheel on the package index."""

    kind: Literal["wheel"]
    """Files in a wheel."""
    package: Distribution
    """Name of the distribution."""
    version: Version
    """Its version."""
    sha256: Sha256
    """Hash of the wheel."""
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    """Patterns of the members to read, one document per file."""


class LocalText(TextBase):
    """Text on disk."""

    kind: Literal["local"]
    """On disk."""
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Patterns of .txt, .md and .py (one document per file), .json (a list or JSON lines), .jsonl and .parquet files;
    all but .parquet may be compressed (.jsonl.gz, .jsonl.zst)."""


class CorpusText(Strict):
    """Another corpus of the study with all of its sources, for mixtures of corpora."""

    kind: Literal["corpus"]
    """A corpus."""
    corpus: Alias
    """Its alias."""
    prompts: Prompts | None = None
    """Keep user messages drawn from the documents in place of the documents."""
    share: Share = 1.0
    """Weight of this source in the token budget, relative to the other sources."""


class HubText(TextBase):
    """A dataset on the Hugging Face hub, streamed."""

    kind: Literal["hub"]
    """On the hub."""
    id: str
    """owner/name on the hub."""
    revision: str
    """Commit, tag or branch."""
    split: str = "train"
    """Split."""
    subset: str | None = None
    """Configuration of the dataset, where it has several."""
    files: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Patterns of the dataset's files to read as this split; null: those that the dataset itself names."""
    documents: TokenCount | None = 10_000
    """Documents read from the start of the stream."""


Source = Annotated[WheelText | LocalText | HubText | CorpusText, Field(discriminator="kind")]


class Corpus(Strict):
    """A corpus: labelled sources of text, and how much of each is read."""

    prose: ClassVar[frozenset[str]] = frozenset({"template"})

    sources: Annotated[dict[str, Source], Field(min_length=1)]
    """Sources by label; the label is shown wherever results are split by source."""
    tokens: TokenCount | None = None
    """Token budget over all sources, spread over as many documents as possible; null (all there is) only where every
    source draws `prompts`."""
    sequence_length: Annotated[int, Field(ge=8)] = 128
    """Longest sequence in tokens; a sequence never crosses a document unless `pack`. Conversations that are too
    long even with their last user turn cut are left out and counted."""
    characters_per_token: PositiveFloat = 6.0
    """Characters read per token of `sequence_length`; above the tokenizer's own ratio every sequence is full."""
    skip_first: Annotated[int, Field(ge=1)] = 1
    """Positions at the start of every sequence whose rows do not count (attention sinks)."""
    pack: bool = False
    """Fill sequences with several documents."""
    template: str = "model"
    """Chat template of conversations and prompts, the same text for all models: the tokenizer's own (model; of
    several, the one that the model's `chat_template` names), plain, chatml, llama3, gemma, or Jinja text.
    Conversations that it refuses are left out and counted; prompts are an error."""
    positions: dict[str, Annotated[int, Field(le=0)]] | None = None
    """Names of template tokens by their offset from the last token of the assistant header; null: the template
    family's (chatml: im_start -2, assistant -1, newline 0; llama3: asst -2, endheader -1, newline 0; gemma: model -1,
    newline 0; plain: colon 0)."""
    generation_prompt: bool = True
    """End conversations that do not end with the assistant's turn with an opened one."""
    folds: Annotated[int, Field(ge=3)] = 5
    """Folds of documents; fold 0 is the test fold on which nothing is fitted or chosen."""
    seed: Seed = 0
    """Seed of the choice of document parts and of the folds."""
