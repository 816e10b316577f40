"""Rule build_report: the index and the page of each pair."""

from pathlib import Path

from diptych.report import single_file, stage
from diptych.runtime import logs
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
settings = dict(spec["settings"])
results = Path(snakemake.output.index).parents[1]
inputs = {**artifacts.below(results, spec["reads"]), "title": settings.pop("title")}
stage.build(inputs, snakemake.output.index, spec=spec, **settings)
single_file.write(Path(snakemake.output.index).parent, snakemake.output.whole)
