"""Rule build_report: the index, the page of each pair, all of them in one file, and what the study took."""

from pathlib import Path

from diptych.report import costs, single_file, stage
from diptych.runtime import logs
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
settings = dict(spec["settings"])
results = Path(snakemake.output.index).parents[1]
inputs = {**artifacts.below(results, spec["reads"]), "title": settings.pop("title")}
stage.build(inputs, snakemake.output.index, spec=spec, **settings)
pages = [Path(page) for page in (snakemake.output.index, *snakemake.output.pages) if page.endswith(".html")]
single_file.write(pages, snakemake.output.whole)
costs.write(results / "benchmarks", snakemake.log.costs, report="../report")
