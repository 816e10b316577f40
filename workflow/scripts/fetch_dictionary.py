"""Rule fetch_dictionary: a published sparse autoencoder, checked against the config, as a plain directory."""

from pathlib import Path

from diptych.dictionaries.published import sources
from diptych.models import pretrained
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
settings = dict(spec["settings"])
reader = sources.Reader(
    model=spec["reads"]["model"],
    model_name=settings.pop("model_name"),
    site=spec["reads"]["site"],
    shape=pretrained.describe(Path(snakemake.input.model).parent),
)
sources.fetch(Path(snakemake.output[0]).parent, spec=spec, reader=reader, **settings)
