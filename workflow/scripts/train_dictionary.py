"""Rule train_dictionary: a sparse autoencoder on one model's rows, by SAELens."""

from pathlib import Path

import torch

from diptych import devices, dictionary_training, logs, rows

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
place = rows.Model(snakemake.input.shards, snakemake.input.gates, snakemake.input.tokens, spec["reads"]["site"])
with devices.take(snakemake.resources.device) as device:
    dictionary_training.train(
        rows.stored([place]),
        Path(snakemake.output[0]).parent,
        dictionary_training.Settings(**spec["settings"]),
        spec=spec,
        metadata={"model_name": spec["reads"]["model"], "hook_name": spec["reads"]["site"]},
        device=device,
        checkpoint_every=snakemake.resources.checkpoint_every,
    )
