"""Rule train_crosscoder: one run of a crosscoder over the rows of its models."""

import torch

from diptych import devices, logs, rows
from diptych.crosscoder import training

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
given = snakemake.input
models = rows.models_of(given.shards, given.gates, given.tokens, spec["reads"]["site"])
with devices.take(snakemake.resources.device) as device:
    training.train(
        rows.stored(models, given.get("alignment") or None),
        snakemake.output[0],
        spec=spec,
        device=device,
        checkpoint_every=snakemake.resources.checkpoint_every,
        **spec["settings"],
    )
