"""The columns of findings.tsv and known_edits.tsv, which other programs read: what each holds, and their versions.

    pandas.read_csv("results/findings.tsv", sep="\\t", comment="#")

The first line is `# diptych findings v1` (`# diptych known edits v1`). The version grows when a column goes, changes
its meaning or its unit; a column more is no new version, so columns are read by name. `docs/outputs.md` holds the
tables of them.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from diptych.candidates import leg

VERSION = 1
TITLE = f"diptych findings v{VERSION}"
"""The comment in the first line."""
STATES: tuple[leg.State, ...] = ("holds", "weak", "untested", "not applicable")


class Column(NamedTuple):
    """A column: its type (a number may be empty where its method does not measure it), and what it holds."""

    name: str
    kind: Literal["text", "number", "integer"]
    meaning: str


def state_column(name: leg.LegName) -> str:
    """Name of the column with the state of a leg: `leg_held_out`."""
    return f"leg_{name.replace(' ', '_')}"


COLUMNS: tuple[Column, ...] = (
    Column("pair", "text", "alias of the pair"),
    Column("site", "text", "alias of the site; empty for models as a whole"),
    Column("method", "text", "name of the method"),
    Column(
        "status", "text", "`finding`; `not repeated`: one training gave it; `cannot be told`: may be something else"
    ),
    Column("rank", "integer", "place among what its method reports of its pair, by the weakest leg; 1 is the best"),
    Column("kind", "text", "`token`, `direction`, `feature`, `latent` or `weights`"),
    Column("id", "text", "its name within the method; `(run k)`: in the k-th training, if the first has it not"),
    Column("side", "text", "`A` or `B`: the model that has it, or has more of it"),
    Column("effect", "number", "B minus A, in the method's unit (`findings.min_effect`)"),
    Column("lo", "number", "lower end of the 95 % interval of `held_out` (at template tokens: of the effect)"),
    Column("hi", "number", "its upper end"),
    Column("p", "number", "of the held-out effect; empty where effects are exact"),
    Column("q", "number", "Benjamini-Hochberg in its family"),
    Column("null", "number", "effect that is expected where nothing differs"),
    Column("held_out", "number", "the effect on documents that had no part in finding it"),
    Column("seeds", "text", "k/S: in k of S trainings with other seeds; empty where nothing is trained"),
    Column("nu_err", "number", "latent scaling of the error (crosscoders)"),
    Column("nu_rec", "number", "latent scaling of the reconstruction (crosscoders)"),
    Column("causal", "number", "KL of steering along it over that of random directions of equal length"),
    Column("readable", "number", "the number of the leg `readable`"),
    Column("weakest_leg", "text", "the leg of least strength"),
    Column("weakest", "number", "its strength: 1 where it just holds, and where it is untested"),
    *(Column(state_column(name), "text", f"whether it is {name}: {', '.join(STATES)}") for name in leg.NAMES),
    Column("legs", "text", "the six legs in words: name, state, reason"),
    Column("contexts", "text", "texts where it is strongest, the token in «», with bars between them"),
    Column("note", "text", "why it is no finding, and what would tell"),
)
NAMES = tuple(column.name for column in COLUMNS)

EDITS_VERSION = 1
EDITS_TITLE = f"diptych known edits v{EDITS_VERSION}"
"""The comment in the first line of known_edits.tsv."""
STANDING = ("finding", "not repeated")
"""States of what is found; a study with one seed has no finding of what is trained."""
EDIT_COLUMNS: tuple[Column, ...] = (
    Column("pair", "text", "alias of the pair"),
    Column("site", "text", "alias of the site; empty for models as a whole"),
    Column("a", "text", "alias of the model that was edited"),
    Column("method", "text", "name of the method"),
    Column("edit", "text", "how B was made of it: `plant`, `trigger` or `finetune`"),
    Column("content", "text", "words of a planted concept, response of a trigger, corpus of a fine-tune"),
    Column("amount", "number", "size of a plant in median residual norms; share of poisoned text of a trigger"),
    Column("frequency", "number", "share of a plant's text that is its concept's tokens"),
    Column("truth", "text", "what the method is to find; empty where it is blind"),
    Column(
        "status",
        "text",
        "of the first that shows a truth and is reported: `finding`, `not repeated` or `cannot be told`; `candidate`: "
        "one shows it and is not reported; `missed`: none does; `NA`: the method is blind, see `note`",
    ),
    Column("average_precision", "number", "of the method's ranking against the truths"),
    Column("rank", "integer", "place of the first hit in the ranking, without duplicates; 0 without one"),
    Column("cosine", "number", "absolute cosine of that one with the planted direction, or without one the largest"),
    Column("truths", "integer", "how many there are: one direction or tensor, several tokens or kinds of matrices"),
    Column("found", "integer", "of these, those that findings show, or candidates that one training gave"),
    Column("reported", "integer", "differences that the method reports"),
    Column("false", "integer", "of these, those that show no truth"),
    Column("n_words", "integer", "words of the edit that reported hits have: read (plants) or said"),
    Column("of_words", "integer", "words that the edit has"),
    Column("words", "text", "the first of those that reported hits have"),
    Column("rank_made", "number", "rank of the change of the weights as it was made"),
    Column("rank_seen", "number", "its rank as the weights show it; of several matrices the largest"),
    Column("note", "text", "why the method is blind to the edit"),
)


def markdown(columns: Sequence[Column]) -> str:
    """A table of columns for docs/outputs.md."""
    rows = [f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in columns]
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *rows]) + "\n"
