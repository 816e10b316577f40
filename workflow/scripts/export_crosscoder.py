"""Rule export_crosscoder: a crosscoder as safetensors that need no Diptych."""

from pathlib import Path

from diptych.crosscoder import exchange
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
exchange.export(snakemake.input[0], Path(snakemake.output[0]).parent, spec=snakemake.params.spec)
