"""Rule import_crosscoder: the weights of a published crosscoder."""

from diptych.activations import rows
from diptych.crosscoder.published import files, stage
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
paths, spec = snakemake.input, snakemake.params.spec
settings = dict(spec["settings"])
hub = settings.pop("hub")
pair = None
if settings["calibrate"]:
    row_files = rows.split_files(paths.shards, paths.gates, paths.tokens, spec["reads"]["site"])
    pair = rows.stored(row_files, paths.get("alignment") or None, spec["reads"]["rows"])
on_disk = [paths.weights] if isinstance(paths.weights, str) else paths.weights
weights = files.downloaded(hub["id"], hub["revision"], hub["folder"]) if hub else on_disk
stage.import_published(weights, snakemake.output[0], spec=spec, rows=pair, **settings)
