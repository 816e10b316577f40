"""The columns of findings.tsv, which other programs read: what each holds, and the version of them all.

    pandas.read_csv("results/findings.tsv", sep="\\t", comment="#")

The first line is `# diptych findings v1`. The version grows when a column goes, changes its meaning or its unit; a
column more is no new version, so columns are read by name. `docs/outputs.md` holds the table of them.
"""

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
    Column("id", "text", "its name within the method"),
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


def markdown() -> str:
    """The table of columns for docs/outputs.md."""
    rows = [f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in COLUMNS]
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *rows]) + "\n"
