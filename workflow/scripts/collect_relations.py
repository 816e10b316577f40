"""Rule collect_relations: what the models of each relation share, and how students of different losses differ."""

from pathlib import Path

from diptych.relations import stage
from diptych.runtime import logs
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
results = Path(snakemake.output.table).parent
relations = artifacts.below(results, spec["reads"]["relations"])
stage.collect(relations, snakemake.output.relations, snakemake.output.table, spec=spec)
