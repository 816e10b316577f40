"""Rule import_crosscoder: a published crosscoder, taken over instead of training one."""

from diptych.activations import rows
from diptych.crosscoder.published import stage
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
given, spec = snakemake.input, snakemake.params.spec
pair = None
if spec["settings"]["calibrate"]:
    models = rows.models_of(given.shards, given.gates, given.tokens, spec["reads"]["site"])
    pair = rows.stored(models, given.get("alignment") or None, spec["reads"]["rows"])
files = [given.weights] if isinstance(given.weights, str) else given.weights
stage.import_published(files, snakemake.output[0], spec=spec, rows=pair, **spec["settings"])
