"""Rule collect_findings: the differences that stand, over all pairs and methods."""

from pathlib import Path

from diptych import artifacts, findings, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
results = Path(snakemake.output.table).parent
findings.collect(
    artifacts.below(results, spec["reads"]["pairs"]),
    snakemake.output.findings,
    snakemake.output.table,
    spec=spec,
    **spec["settings"],
)
