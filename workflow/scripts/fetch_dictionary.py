"""Rule fetch_dictionary: a published sparse autoencoder, checked against the config, as a plain directory."""

from pathlib import Path

from diptych import dictionary_sources, logs, models

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
settings = dict(spec["settings"])
reader = dictionary_sources.Reader(
    model=spec["reads"]["model"],
    model_name=settings.pop("model_name"),
    site=spec["reads"]["site"],
    shape=models.describe(Path(snakemake.input.model).parent),
)
dictionary_sources.fetch(Path(snakemake.output[0]).parent, spec=spec, reader=reader, **settings)
