"""Rule fetch_adapter: a PEFT adapter from the hub or a directory."""

from pathlib import Path

from diptych.models import adapters
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
adapters.fetch(Path(snakemake.output[0]).parent, spec=spec, **spec["settings"])
