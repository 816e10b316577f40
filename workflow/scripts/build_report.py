"""Rule build_report: the page."""

from pathlib import Path

from diptych import artifacts, logs
from diptych.report import page

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
settings = dict(spec["settings"])
results = Path(snakemake.output[0]).parents[1]
inputs = {**artifacts.below(results, spec["reads"]), "title": settings.pop("title")}
page.build(inputs, snakemake.output[0], spec=spec, **settings)
