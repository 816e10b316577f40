"""Candidate findings of the comparison of outputs: tokens that one model says more often (METHODS 10)."""

from collections.abc import Sequence

import numpy as np

from diptych.candidates import known, proposer
from diptych.candidates.candidate import NAN, Candidate, IntArray, counted
from diptych.candidates.known import Edit, Known
from diptych.candidates.leg import not_applicable
from diptych.candidates.proposer import Clause, Files
from diptych.candidates.ranking import Threshold, rank
from diptych.candidates.recovery import Recovery
from diptych.outputs import record
from diptych.outputs.record import Columns, Record

OTHER_TOKENIZER = "the models have different tokenizers, and no next tokens in common"
DIVERGENCES = ("kl_ab", "kl_ba", "js")
LEGS = (
    not_applicable("causal", "a token is what the model says, no direction to steer along"),
    not_applicable("readable", "a token reads as itself"),
)


def candidates(files: Files) -> list[Candidate]:
    """The listed tokens of the text and of the first tokens of replies.

    The effect is the binary logarithm of how many times as often B says a token, on documents outside fold 0, and held
    out on fold 0; p and q are those of all eligible tokens. Replies are a family of their own.
    """
    return [
        candidate
        for compared in record.read(files["outputs"]).values()
        for candidate in _listed(compared, files.get("prompts", "") if compared.at == "replies" else "")
    ]


def _listed(compared: Record, tokens: str) -> list[Candidate]:
    columns, names = compared.listed, compared.ids()
    texts = compared.vocabulary.of(columns["token"])
    return [
        _candidate(columns, k, name, compared.rows[k][compared.rows[k] >= 0])._replace(tokens=tokens, words=(text,))
        for k, (name, text) in enumerate(zip(names, texts, strict=True))
    ]


def _candidate(columns: Columns, k: int, name: str, rows: IntArray) -> Candidate:
    values = {field: float(column[k]) for field, column in columns.items()}
    return Candidate(
        kind="token",
        id=name,
        side="B" if values["effect"] > 0 else "A",
        effect=values["effect"],
        held_out=values["held_out"],
        lo=values.get("lo", NAN),
        hi=values.get("hi", NAN),
        p=values["p"],
        q=values["q"],
        direction=np.zeros(0),
        rows=rows,
        legs=LEGS,
    )


def planted(compared: Record, threshold: Threshold) -> Recovery | None:
    """Recovery of the planted tokens: `written` if most of them are findings; None if none could be planted."""
    columns = compared.planted
    names = compared.texts(columns["token"])
    rows = np.zeros(0, dtype=np.int64)
    ranking = rank([_candidate(columns, k, name, rows) for k, name in enumerate(names)], threshold)
    if not ranking.candidates:
        return None
    ranks = [i + 1 for i, each in enumerate(ranking.candidates) if each.is_finding and each.candidate.side == "B"]
    return Recovery(
        written=2 * len(ranks) > len(names),
        rank=ranks[0] if ranks else 0,
        cosine=NAN,
        average_precision=len(ranks) / len(names),
        candidates=len(names),
        name=f"{len(ranks)} of {counted(len(names), 'token')}",
        elsewhere=0,
    )


class Proposer(proposer.Proposer):
    """Candidates, control clauses and planted tokens of the comparison of outputs."""

    def candidates(self, files: Files) -> list[Candidate]:
        """The listed tokens."""
        return candidates(files)

    def untestable(self, files: Files) -> str:
        """That the tokenizers differ, or ""."""
        return OTHER_TOKENIZER if not record.read(files["outputs"]) else ""

    def control(self, files: Files) -> Sequence[Clause]:
        """Clauses of the control (a model against itself): no prediction differs, and no p is below 1."""
        names = ("no prediction differs", "every token's p is 1")
        if not files.get("outputs"):
            return [Clause(name, None, "the outputs were not compared") for name in names]
        compared = record.read(files["outputs"]).values()
        sizes = [float(np.abs(each.positions[name]).max()) for each in compared for name in DIVERGENCES]
        largest = max(sizes, default=0.0)
        agree = all(bool(each.positions["agrees"].all()) for each in compared)
        p = np.concatenate([each.tested["p"] for each in compared] or [np.zeros(0)])
        n_positions = sum(each.summary["positions"] for each in compared)
        return [
            Clause(
                names[0], largest == 0.0 and agree, f"largest divergence {largest:.3g} of {n_positions:,} positions"
            ),
            Clause(names[1], bool((p == 1.0).all()), f"{counted(len(p), 'token')} that moved anywhere"),
        ]

    def known(self, files: Files, edit: Edit, candidates: Sequence[Candidate]) -> Known:
        """Where a plant acts, or the tokens that a trained model says."""
        return known.at_concept(edit, candidates) if edit.kind == "plant" else known.saying(edit, candidates)

    def planted(self, files: Files, threshold: Threshold) -> Recovery | None:
        """Recovery of the tokens planted in the text."""
        text = record.read(files["outputs"]).get("text")
        return None if text is None else planted(text, threshold)


PROPOSER = Proposer()
