"""Rule gate_activations: validity of the rows of a model, and gates on the quality of its input."""

from diptych.activations import gates
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
gates.gate(snakemake.input.shards, snakemake.input.tokens, snakemake.output[0], spec=spec, **spec["settings"])
