"""Rule train_dictionary: a sparse autoencoder on the rows of one or several models."""

from pathlib import Path

import torch

from diptych.activations import pooled, rows
from diptych.dictionaries import training
from diptych.dictionaries.settings import Settings
from diptych.runtime import devices, logs
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec, paths = snakemake.params.spec, snakemake.input
torch.set_num_threads(snakemake.threads)
site = spec["reads"]["site"]
files = rows.split_files(paths.shards, paths.gates, paths.tokens, site)
with artifacts.read(paths.shards[0], "activations") as file:
    hook = artifacts.read_json(file, "hooks")[site]
with devices.take(snakemake.resources.device) as device:
    training.train(
        pooled.pool(rows.stored(files)),
        Path(snakemake.output[0]).parent,
        Settings(**spec["settings"]),
        spec=spec,
        metadata={"model_name": ", ".join(spec["reads"]["models"]), "hook_name": hook},
        device=device,
        checkpoint_every=snakemake.resources.checkpoint_every,
    )
