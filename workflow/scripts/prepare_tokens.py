"""Rule prepare_tokens: documents to sequences of tokens, with what counts and where each token stands."""

from pathlib import Path

from diptych.runtime import logs
from diptych.text import tokens

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
corpus, tokenizer = (Path(manifest).parent for manifest in (snakemake.input.corpus, snakemake.input.tokenizer))
tokens.prepare(corpus, tokenizer, snakemake.output[0], spec=spec, **spec["settings"])
