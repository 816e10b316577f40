"""Rule pair_features: matching of the features of A and B, and the unmatched ones."""

from pathlib import Path

from diptych.dictionaries import sae
from diptych.pairing import stage
from diptych.runtime import logs
from diptych.text import selection

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
paths = snakemake.input
stage.pair(
    paths.correlation,
    paths.features_a,
    paths.features_b,
    sae.load(Path(paths.dictionary_a).parent),
    sae.load(Path(paths.dictionary_b).parent),
    paths.linear_map,
    paths.tokens_a,
    paths.tokens_b,
    snakemake.output.pairing,
    spec=spec,
    matches=snakemake.output.matches,
    unmatched=snakemake.output.unmatched,
    alignment=paths.get("alignment") or None,
    selection=selection.read(paths.tokens_a, spec["reads"]["rows"]),
    features_a_on_b=paths.get("features_a_on_b", ()),
    features_b_on_a=paths.get("features_b_on_a", ()),
    memory=snakemake.resources.correlation_mib * 2**20,
    **spec["settings"],
)
