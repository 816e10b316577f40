"""Rule collect_similarity: the scores of all pairs and sites in one table, with q."""

from pathlib import Path

from diptych.runtime import logs
from diptych.similarity import score_table
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
results = Path(snakemake.output.table).parent
cells = artifacts.below(results, spec["reads"]["cells"])
score_table.collect(cells, snakemake.output.scores, snakemake.output.table, spec=spec)
