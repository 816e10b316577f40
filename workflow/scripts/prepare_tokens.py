"""Rule prepare_tokens: token sequences of a corpus, with the role and fold of each token."""

from pathlib import Path

from diptych.runtime import logs
from diptych.text import tokens

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
corpus, tokenizer = (Path(manifest).parent for manifest in (snakemake.input.corpus, snakemake.input.tokenizer))
tokens.prepare(corpus, tokenizer, snakemake.output[0], spec=spec, **spec["settings"])
