"""What is known of how B was made from A, and which of it each candidate of a method shows (METHODS 8).

    edit = Edit.of(pair["edit"], pair["files"]["tokens_a"])
    known = along(edit, candidates)         # a plant: a candidate of B at |cos| >= .7 to the planted direction shows it
    known.shown                             # [frozenset({0}), frozenset(), ...], one a candidate

An edit is known by other truths to other methods (`candidates.proposer.Proposer.known`): the planted direction, the
tokens that are read or said, the tensor that was changed. What a method cannot know of is `blind`, with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.candidates.candidate import NAN, SAME_DIRECTION, Candidate, DoubleArray, IntArray, abs_cosine
from diptych.candidates.recovery import read_truth
from diptych.models import pretrained, sites
from diptych.storage import artifacts
from diptych.text.contexts import Text
from diptych.text.own_vocabulary import own_vocabulary
from diptych.text.tokenizer import Tokenizer

EditKind = Literal["plant", "trigger", "finetune"]

LEAST_OWN = 0.1
"""Least share of a fine-tune's own tokens among those that a candidate promotes by which it is readable (METHODS 11):
two of twenty."""
MOSTLY = 0.5
"""Share of the places where a candidate is strongest from which on they are the concept's."""


class Known(NamedTuple):
    """What a method is to find of an edit, and what its candidates show of it.

    Attributes:
        truth: what it is to find, in words.
        names: of the truths, one or several.
        shown: by candidate, the truths that it shows; None for one that cannot be judged.
        words: that belong to the edit, by which a finding can be read.
        read: by candidate, which of these it has.
        cosine: by candidate, |cos| with the planted direction; () where none is known.
        rank: of the change of the weights, as it was made, and as it is seen; NaN where it is not compared.
        blind: why the method cannot know of the edit, or "".
    """

    truth: str
    names: Sequence[str] = ()
    shown: Sequence[frozenset[int] | None] = ()
    words: Sequence[str] = ()
    read: Sequence[frozenset[int]] = ()
    cosine: Sequence[float] = ()
    rank: tuple[float, float] = (NAN, NAN)
    blind: str = ""


def blind(reason: str) -> Known:
    """What a method knows of an edit that it cannot see by design."""
    return Known("", blind=reason)


@dataclass(frozen=True)
class Edit:
    """How B was made from A.

    Attributes:
        kind: of B in the config.
        settings: of B: layer, concept, size; phrase, response, share; corpus; method, lora_rank.
        directory: of model A.
        tokens: token file of the text that B was made with.
        truth: of a plant, its truth.h5; else "".
        text: token file of the text that is compared.
    """

    kind: EditKind
    settings: Mapping[str, Any]
    directory: str
    tokens: str
    truth: str
    text: str

    @classmethod
    def of(cls, description: Mapping[str, Any], text: str) -> "Edit":
        """The edit of a pair, from its description (`config.cells`) and the token file that A reads."""
        return cls(**{"truth": "", **description}, text=text)

    @property
    def content(self) -> str:
        """What B was made to know: the words of a concept, a response, or a text."""
        key = {"plant": "concept", "trigger": "response", "finetune": "corpus"}[self.kind]
        value = self.settings[key]
        return value if isinstance(value, str) else ", ".join(value)

    @property
    def amount(self) -> float:
        """Size of a plant in median residual norms, share of poisoned text of a trigger; NaN of a fine-tune."""
        return float(self.settings.get({"plant": "size", "trigger": "share"}.get(self.kind, ""), NAN))

    @cached_property
    def frequency(self) -> float:
        """Share of a plant's text that is the concept's tokens, of the rows that count; NaN of other edits."""
        if self.kind != "plant":
            return NAN
        with artifacts.read(self.truth, "truth") as file:
            return float(file["concept"][:][file["counted"][:]].mean())

    @cached_property
    def direction(self) -> DoubleArray:
        """The planted unit direction [d], which B has."""
        return read_truth(self.truth)

    @cached_property
    def concept(self) -> npt.NDArray[np.bool_]:
        """bool [n], the rows of a plant's text that are its concept's."""
        with artifacts.read(self.truth, "truth") as file:
            rows: npt.NDArray[np.bool_] = file["concept"][:]
        return rows

    @cached_property
    def tokens_said(self) -> tuple[str, ...]:
        """Texts of the tokens of a trigger's response, or of those that a fine-tune's text is rich in (METHODS 11)."""
        if self.kind == "finetune" and self.tokens == self.text:
            return ()
        tokenizer = Tokenizer(self.directory)
        if self.kind == "trigger":
            ids = tokenizer.encode([f" {self.settings['response']}"])[0].token.tolist()
        else:
            ids = own_vocabulary(self.tokens, self.text).tolist()
        return tuple(dict.fromkeys(tokenizer.texts(ids)))

    @cached_property
    def _text(self) -> Text:
        return Text(self.text)

    def words_at(self, rows: IntArray) -> frozenset[int]:
        """Numbers of the concept's words among the tokens of some rows of the compared text (words of one token)."""
        read = {word.strip().lower() for word in self._text.words(rows)}
        return frozenset(k for k, word in enumerate(self.settings["concept"]) if word.lower() in read)


def unreached(edit: Edit, site: str) -> str:
    """Why a plant is not to be found at a site as a direction, or "": v is in the stream from its block on."""
    hook = sites.resolve_site(site, pretrained.describe(edit.directory)["n_layers"])
    place, layer = sites.residual_block(hook), int(edit.settings["layer"])
    if place is None:
        return f"{site} is not in the residual stream, where the planted direction is known"
    if place.block - place.before < layer:
        return f"{site} lies before block {layer}, which was edited"
    if hook.endswith("hook_mlp_out") and place.block != layer:
        return f"{site} is the output of another block than {layer}, which was edited"
    return ""


def along(edit: Edit, candidates: Sequence[Candidate]) -> Known:
    """Candidates of side B at |cos| >= .7 show a planted direction; they read the concept where they are strongest."""
    cosine = [abs_cosine(each.direction, edit.direction) if each.side == "B" else 0.0 for each in candidates]
    return Known(
        "the planted direction",
        names=("direction",),
        shown=[frozenset({0} if value >= SAME_DIRECTION else ()) for value in cosine],
        words=edit.settings["concept"],
        read=[edit.words_at(each.rows) for each in candidates],
        cosine=cosine,
    )


def at_concept(edit: Edit, candidates: Sequence[Candidate]) -> Known:
    """Candidates show where a plant acts if the concept's tokens are most of the places where they are strongest.

    Those that stand in another text than the pair's are not judged.
    """
    if edit.tokens != edit.text:
        return blind("where the concept stands is known on the text that it was planted with alone")
    return Known(
        "the concept's tokens as the place of the change",
        names=("place",),
        shown=[None if each.tokens else _at(each.rows, edit.concept) for each in candidates],
        words=edit.settings["concept"],
        read=[frozenset() if each.tokens else edit.words_at(each.rows) for each in candidates],
    )


def _at(rows: IntArray, concept: npt.NDArray[np.bool_]) -> frozenset[int]:
    return frozenset({0} if len(rows) and concept[rows].mean() >= MOSTLY else ())


def saying(edit: Edit, candidates: Sequence[Candidate]) -> Known:
    """Candidates of side B show the tokens of a response, or of a fine-tune's own, that are among their words.

    Of a fine-tune's own they must promote more than chance would: a share of `LEAST_OWN`. A candidate that is not put
    into words cannot be judged: the direction of a training is not known.
    """
    names = edit.tokens_said
    if not names:
        return blind("no token is more frequent in the text of the fine-tune than in the text that is compared")
    if candidates and not any(each.words for each in candidates):
        return blind(f"the direction of a {edit.kind} is not known, and no candidate is put into words")
    place, least = {name: k for k, name in enumerate(names)}, LEAST_OWN if edit.kind == "finetune" else 0.0
    shown = [_said(each, place, least) if each.words else None for each in candidates]
    truth = "the tokens of the response" if edit.kind == "trigger" else "the tokens that its text is rich in"
    return Known(truth, names, shown, words=names, read=[each or frozenset() for each in shown])


def _said(candidate: Candidate, place: Mapping[str, int], least: float) -> frozenset[int]:
    said = [place[word] for word in candidate.words if word in place]
    is_said = candidate.side == "B" and len(said) >= least * len(candidate.words)
    return frozenset(said if is_said else ())
