"""Rule align_tokens: which token of one tokenizer ends where a token of the other does."""

from diptych.runtime import logs
from diptych.text import alignment

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
alignment.align(snakemake.input.a, snakemake.input.b, snakemake.output[0], spec=spec, **spec["settings"])
