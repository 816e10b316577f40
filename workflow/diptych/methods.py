"""Table of the methods: name, package, the files of a cell that each reads, and the unit of its effect.

The only module outside the packages. It imports nothing from them, so that every layer may import it; the code of a
method is loaded by the name of its package (`candidates.proposer.of`, `page.method_sections.of`). A method is a package

    diptych/linear_map/
        stage.py            what its rule's script calls; the maths is in the modules beside it
        candidates.py       PROPOSER: its candidate differences (if `proposes`)
        section.py          SECTIONS: its part of the page
    entry.py            ENTRIES: how it enters the leaderboard (if it has `entries`)

and one entry here. Findings, controls, conclusions, report and config iterate over the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Scope = Literal["pair", "site"]
"""What a comparison is of: two models as a whole, or one site of each."""


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: in the column `method` of findings.tsv, and its key of `findings.min_effect`.
        title: its name in running text.
        package: dotted name of its package.
        file: key among a cell's files; a method without that file was not run.
        settings_files: keys of the files whose settings must be equal for one pair's planted control to apply to
            another pair.
        kind: kind of its candidates: "token", "direction", "feature", "latent" or "weights"; "" for a method that
            proposes none.
        scope: what it compares: models as a whole ("pair"), or one site of each ("site").
        is_exact: whether its effects are known without error, so that nothing is tested or held out.
        min_effect: default minimum |effect| of a finding, in the method's unit.
        effect: definition of the effect, for the config's reference.
        unit: unit of the effect, after its number.
        is_share: whether the effect is a share, at most 1.
        is_steered: whether models are steered along its candidates.
        plants: whether it plants a change of its own as positive control, in place of a planted model.
        entries: names of its entries on the leaderboard: the ways in which it is fitted on two matrices of rows.
        entry_module: dotted name of the module whose `ENTRIES` has them, if that is not `entry` of its package.
        unjudged: why it has none.
    """

    name: str
    title: str
    package: str
    file: str
    settings_files: tuple[str, ...] = ()
    kind: str = ""
    min_effect: float = 0.0
    effect: str = ""
    unit: str = ""
    is_share: bool = True
    is_steered: bool = False
    plants: bool = False
    scope: Scope = "site"
    is_exact: bool = False
    entries: tuple[str, ...] = ()
    entry_module: str = ""
    unjudged: str = "it is not fitted on two matrices of rows"

    @property
    def proposes(self) -> bool:
        """Whether it proposes candidates."""
        return bool(self.kind)


METHODS: tuple[Method, ...] = (
    Method(
        "outputs",
        "output comparison",
        "diptych.outputs",
        file="outputs",
        kind="token",
        min_effect=0.5,
        effect="Binary logarithm of how many times as often B says a token as A; .5 is 1.4 times as often.",
        unit="doublings",
        is_share=False,
        plants=True,
        scope="pair",
        unjudged="it reads next tokens; its truth is the words that a model was tuned to say",
    ),
    Method(
        "weights",
        "weights",
        "diptych.weights",
        file="weights",
        kind="weights",
        # Less than storing weights in bfloat16 does to them (.0016).
        min_effect=0.001,
        effect="Norm of the change of all matrices of a kind over the norm of A's.",
        unit="of A's norm",
        is_share=False,
        scope="pair",
        is_exact=True,
        unjudged="it reads weights, exactly; its truth is the tensor that was edited",
    ),
    Method(
        "means",
        "difference of means",
        "diptych.means",
        file="means",
        settings_files=("means",),
        kind="direction",
        min_effect=0.05,
        effect="Length of the mean difference, over the typical distance of A's activations there from their mean.",
        unit="typical distances",
        is_share=False,
        is_steered=True,
        entries=("means",),
    ),
    Method(
        "linear_map",
        "linear map",
        "diptych.linear_map",
        file="linear_map",
        settings_files=("linear_map",),
        kind="direction",
        min_effect=0.1,
        effect="Share of B's variance along a direction that the map leaves unexplained.",
        unit="of the variance",
        is_steered=True,
        entries=("linear_map",),
    ),
    Method(
        "pairing",
        "feature pairing",
        "diptych.pairing",
        file="pairing",
        settings_files=("linear_map", "correlation", "pairing", "dictionary_a", "dictionary_b"),
        kind="feature",
        min_effect=0.5,
        effect="Activation of a feature on its own model minus that on the other, over their sum; .5 is three times "
        "as much.",
        unit="of the sum",
        is_steered=True,
        entries=("pairing",),
        entry_module="diptych.leaderboard.dictionaries",
    ),
    Method(
        "similarity",
        "similarity of feature spaces",
        "diptych.similarity",
        file="similarity",
        unjudged="it scores whole spaces and proposes no difference",
    ),
    Method(
        "steering",
        "steering",
        "diptych.steering",
        file="steering",
        unjudged="it tests what the other methods propose, by running the models",
    ),
    Method(
        "crosscoder",
        "crosscoder",
        "diptych.crosscoder",
        file="crosscoders",
        settings_files=("crosscoders",),
        kind="latent",
        min_effect=0.2,
        effect="Activation of a latent minus that with the models exchanged, over their sum.",
        is_steered=True,
        unit="of the sum",
        entries=(
            "crosscoder_batchtopk",
            "crosscoder_topk",
            "crosscoder_l1",
            "crosscoder_jumprelu",
            "crosscoder_shared",
            "crosscoder_dedicated",
            "crosscoder_matryoshka",
            "crosscoder_diff",
        ),
    ),
    Method(
        "template",
        "template diff",
        "diptych.template_diff",
        file="template_diffs",
        kind="feature",
        min_effect=0.5,
        effect="Mean change over prompts in standard deviations; .5 shows in two of three prompts.",
        unit="standard deviations",
        is_share=False,
        plants=True,
        unjudged="it reads one dictionary at the tokens of a chat template, which planted rows have none of",
    ),
)
"""All methods, in the order of the page."""


def proposing(scope: Scope | None = None) -> tuple[Method, ...]:
    """The methods that propose candidates, of one scope or of both."""
    return tuple(method for method in METHODS if method.proposes and scope in (None, method.scope))


def scope_of(comparison: Mapping[str, Any]) -> Scope:
    """The scope of a comparison (`config.cells.comparisons`)."""
    return "site" if comparison["site_a"] else "pair"


def steered() -> tuple[Method, ...]:
    """The methods along whose candidates models are steered."""
    return tuple(method for method in METHODS if method.is_steered)


def named(name: str) -> Method:
    """The method with this name."""
    return next(method for method in METHODS if method.name == name)


def modules(module: str, methods: tuple[Method, ...]) -> tuple[str, ...]:
    """Dotted names of the module `candidates` or `section` of each method."""
    return tuple(f"{method.package}.{module}" for method in methods)
