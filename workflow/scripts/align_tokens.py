"""Rule align_tokens: pairs of tokens of two tokenizers that end at the same character."""

from diptych.runtime import logs
from diptych.text import alignment

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
alignment.align(snakemake.input.a, snakemake.input.b, snakemake.output[0], spec=spec, **spec["settings"])
