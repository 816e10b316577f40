"""Rule build_report: the page."""

from pathlib import Path

from diptych.report import stage
from diptych.runtime import logs
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
settings = dict(spec["settings"])
results = Path(snakemake.output[0]).parents[1]
inputs = {**artifacts.below(results, spec["reads"]), "title": settings.pop("title")}
stage.build(inputs, snakemake.output[0], spec=spec, **settings)
