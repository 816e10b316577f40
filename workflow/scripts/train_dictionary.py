"""Rule train_dictionary: a sparse autoencoder on one model's rows, by SAELens."""

from pathlib import Path

import torch

from diptych.activations import rows
from diptych.dictionaries import training
from diptych.runtime import devices, logs
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
model, site = spec["reads"]["model"], spec["reads"]["site"]
place = rows.RowFiles(snakemake.input.shards, snakemake.input.gates, snakemake.input.tokens, site)
with artifacts.read(snakemake.input.shards[0], "activations") as file:
    hook = artifacts.read_json(file, "hooks")[site]
with devices.take(snakemake.resources.device) as device:
    training.train(
        rows.stored([place]),
        Path(snakemake.output[0]).parent,
        training.Settings(**spec["settings"]),
        spec=spec,
        metadata={"model_name": model, "hook_name": hook},
        device=device,
        checkpoint_every=snakemake.resources.checkpoint_every,
    )
