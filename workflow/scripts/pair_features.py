"""Rule pair_features: which feature of A is which of B, and what stays unmatched."""

from pathlib import Path

from diptych.dictionaries import sae
from diptych.pairing import stage
from diptych.runtime import logs
from diptych.text import selection

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
given = snakemake.input
stage.pair(
    given.correlation,
    given.features_a,
    given.features_b,
    sae.load(Path(given.dictionary_a).parent),
    sae.load(Path(given.dictionary_b).parent),
    given.linear_map,
    given.tokens_a,
    given.tokens_b,
    snakemake.output.pairing,
    spec=spec,
    matches=snakemake.output.matches,
    unmatched=snakemake.output.unmatched,
    alignment=given.get("alignment") or None,
    selection=selection.read(given.tokens_a, spec["reads"]["rows"]),
    features_a_on_b=given.get("features_a_on_b", ()),
    features_b_on_a=given.get("features_b_on_a", ()),
    memory=snakemake.resources.correlation_mib * 2**20,
    **spec["settings"],
)
