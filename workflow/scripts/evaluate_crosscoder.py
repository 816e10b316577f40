"""Rule evaluate_crosscoder: a crosscoder on rows that had no part in it, and spliced into its models."""

from pathlib import Path

import torch

from diptych.activations import rows
from diptych.crosscoder.evaluation import stage
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
given, site = snakemake.input, spec["reads"]["site"]
files = rows.split_files(given.shards, given.gates, given.tokens, site)
splice = [
    {"directory": Path(manifest).parent, "tokens": model.tokens, "shard": model.shards[0]}
    for manifest, model in zip(given.get("models", []), files, strict=False)
]
with devices.take(snakemake.resources.device) as device:
    pair = rows.stored(files, given.get("alignment") or None, spec["reads"]["rows"])
    stage.evaluate(
        given.weights, pair, snakemake.output[0], spec=spec, splice=splice, site=site, device=device, **spec["settings"]
    )
