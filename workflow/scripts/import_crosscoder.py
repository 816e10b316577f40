"""Rule import_crosscoder: weights in the published layout, taken over instead of training."""

from diptych.crosscoder import exchange
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
exchange.import_published(snakemake.input[0], snakemake.output[0], spec=spec, **spec["settings"])
