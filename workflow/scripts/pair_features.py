"""Rule pair_features: which feature of A is which of B, and what stays unmatched."""

from pathlib import Path

from diptych import dictionaries, logs, pairing, selection

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
given = snakemake.input
pairing.pair(
    given.correlation,
    given.features_a,
    given.features_b,
    dictionaries.load(Path(given.dictionary_a).parent),
    dictionaries.load(Path(given.dictionary_b).parent),
    given.linear_map,
    given.tokens_a,
    given.tokens_b,
    snakemake.output.pairing,
    spec=spec,
    matches=snakemake.output.matches,
    unmatched=snakemake.output.unmatched,
    alignment=given.get("alignment") or None,
    chosen=selection.read(given.tokens_a, spec["reads"]["rows"]),
    features_a_on_b=given.get("features_a_on_b", ()),
    features_b_on_a=given.get("features_b_on_a", ()),
    memory=snakemake.resources.correlation_mib * 2**20,
    **spec["settings"],
)
