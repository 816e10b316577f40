"""Rule train_dictionary: a sparse autoencoder on the rows of one or several models, by SAELens."""

from pathlib import Path

import torch

from diptych.activations import pooled, rows
from diptych.dictionaries import training
from diptych.runtime import devices, logs
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
site, files = spec["reads"]["site"], snakemake.input
models = rows.models_of(files.shards, files.gates, files.tokens, site)
with artifacts.read(files.shards[0], "activations") as file:
    hook = artifacts.read_json(file, "hooks")[site]
with devices.take(snakemake.resources.device) as device:
    training.train(
        pooled.pool(rows.stored(models)),
        Path(snakemake.output[0]).parent,
        training.Settings(**spec["settings"]),
        spec=spec,
        metadata={"model_name": ", ".join(spec["reads"]["models"]), "hook_name": hook},
        device=device,
        checkpoint_every=snakemake.resources.checkpoint_every,
    )
