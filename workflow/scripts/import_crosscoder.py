"""Rule import_crosscoder: the weights of a published crosscoder."""

from diptych.activations import rows
from diptych.crosscoder.published import stage
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
given, spec = snakemake.input, snakemake.params.spec
pair = None
if spec["settings"]["calibrate"]:
    row_files = rows.split_files(given.shards, given.gates, given.tokens, spec["reads"]["site"])
    pair = rows.stored(row_files, given.get("alignment") or None, spec["reads"]["rows"])
files = [given.weights] if isinstance(given.weights, str) else given.weights
stage.import_published(files, snakemake.output[0], spec=spec, rows=pair, **spec["settings"])
