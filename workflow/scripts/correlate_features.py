"""Rule correlate_features: exact correlations between the sparse codes of two models."""

from diptych.correlation import stage
from diptych.runtime import logs
from diptych.text import selection

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
stage.correlate(
    snakemake.input.features_a,
    snakemake.input.features_b,
    snakemake.output[0],
    spec=spec,
    alignment=snakemake.input.get("alignment") or None,
    memory=snakemake.resources.correlation_mib * 2**20,
    selection=selection.read(snakemake.input.get("tokens_a"), spec["reads"]["rows"]),
    threads=snakemake.threads,
    **spec["settings"],
)
