"""Rule import_crosscoder: the weights of a published crosscoder."""

from diptych.activations import rows
from diptych.crosscoder.published import stage
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
paths, spec = snakemake.input, snakemake.params.spec
pair = None
if spec["settings"]["calibrate"]:
    row_files = rows.split_files(paths.shards, paths.gates, paths.tokens, spec["reads"]["site"])
    pair = rows.stored(row_files, paths.get("alignment") or None, spec["reads"]["rows"])
files = [paths.weights] if isinstance(paths.weights, str) else paths.weights
stage.import_published(files, snakemake.output[0], spec=spec, rows=pair, **spec["settings"])
