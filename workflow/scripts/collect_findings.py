"""Rule collect_findings: findings of all pairs and methods, controls, conclusions, and scores on known edits."""

from pathlib import Path

from diptych.findings import stage
from diptych.runtime import logs
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
results = Path(snakemake.output.table).parent
stage.collect(
    artifacts.below(results, spec["reads"]["pairs"]),
    snakemake.output.findings,
    snakemake.output.table,
    spec=spec,
    edits=snakemake.output.edits,
    **spec["settings"],
)
