"""Rule collect_leaderboard: the scores of all methods in one file, one table and one page."""

from pathlib import Path

from diptych.leaderboard import collect
from diptych.runtime import logs
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
outputs = snakemake.output
scored = artifacts.below(Path(outputs.table).parents[1], spec["reads"]["scored"])
collect.collect(scored, outputs.leaderboard, outputs.table, outputs.page, spec=spec, **spec["settings"])
