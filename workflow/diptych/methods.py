"""The table of methods: what each is called, where its code is, and which of a cell's files it speaks of.

The one module beside the packages. It imports nothing, so that every layer may read it; whoever needs the code of a
method loads it by the name of its package (`candidates.proposer.of`, `page.method_sections.of`). A method is a package

    diptych/linear_map/
        stage.py            what its rule's script calls; the maths stands beside it
        candidates.py       PROPOSER: what it puts forward as differences (if `proposes`)
        section.py          SECTIONS: its part of the page

and one line here. Findings, controls, conclusions, report and config walk the table.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: in the column `method` of findings.tsv, and its key of `findings.min_effect`.
        title: in sentences.
        package: dotted name of its package.
        file: key among a cell's files; a method without that file was not run.
        made_from: keys of the files whose settings must agree for a planted pair to speak for another pair.
        kind: what its candidates are: "direction", "feature" or "latent"; "" for a method that puts none forward.
        min_effect: usual least |effect| of a finding, in the method's own unit.
        effect: what the effect is, as the config's reference says it.
        is_share: whether the effect is a share, at most 1.
        steered: whether models are pushed along its candidates.
        plants: whether it plants a change of its own, by which its silence is judged, in place of a planted model.
    """

    name: str
    title: str
    package: str
    file: str
    made_from: tuple[str, ...] = ()
    kind: str = ""
    min_effect: float = 0.0
    effect: str = ""
    is_share: bool = True
    steered: bool = False
    plants: bool = False

    @property
    def proposes(self) -> bool:
        """Whether it puts candidates forward."""
        return bool(self.kind)


METHODS: tuple[Method, ...] = (
    Method(
        "linear_map",
        "linear map",
        "diptych.linear_map",
        file="linear_map",
        made_from=("linear_map",),
        kind="direction",
        min_effect=0.1,
        effect="Share of B's variance along a direction that the map leaves unexplained.",
        steered=True,
    ),
    Method(
        "pairing",
        "feature pairing",
        "diptych.pairing",
        file="pairing",
        made_from=("linear_map", "correlation", "pairing", "dictionary_a", "dictionary_b"),
        kind="feature",
        min_effect=0.5,
        effect="Activation of a feature on its own model less that on the other, over their sum; .5 is three times as "
        "much.",
        steered=True,
    ),
    Method("similarity", "similarity of feature spaces", "diptych.similarity", file="similarity"),
    Method("steering", "steering", "diptych.steering", file="steering"),
    Method(
        "crosscoder",
        "crosscoder",
        "diptych.crosscoder",
        file="crosscoders",
        made_from=("crosscoders",),
        kind="latent",
        min_effect=0.2,
        effect="Activation of a latent less that with the models exchanged, over their sum.",
    ),
    Method(
        "template",
        "template diff",
        "diptych.template_diff",
        file="template_diffs",
        kind="feature",
        min_effect=0.5,
        effect="Mean change over prompts in standard deviations; .5 shows in two of three prompts.",
        is_share=False,
        plants=True,
    ),
)
"""In the order of the page."""


def proposing() -> tuple[Method, ...]:
    """The methods that put candidates forward."""
    return tuple(method for method in METHODS if method.proposes)


def steered() -> tuple[Method, ...]:
    """The methods along whose candidates models are pushed."""
    return tuple(method for method in METHODS if method.steered)


def named(name: str) -> Method:
    """The method called `name`."""
    return next(method for method in METHODS if method.name == name)


def modules(part: str, of: tuple[Method, ...]) -> tuple[str, ...]:
    """Dotted names of the modules that hold one part, "candidates" or "section", of some methods."""
    return tuple(f"{method.package}.{part}" for method in of)
