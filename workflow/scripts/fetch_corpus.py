"""Rule fetch_corpus: labelled sources of text to one directory of documents."""

from pathlib import Path

from diptych.runtime import logs
from diptych.text.corpora import stage

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
out = Path(snakemake.output[0]).parent
stage.fetch(out, spec=spec, cache_dir=snakemake.resources.wheels, corpora_dir=out.parent, **spec["settings"])
