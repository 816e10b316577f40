"""Rule dump_activations: one shard of a model's activations at the sites of a group, from one forward pass."""

from pathlib import Path

import torch

from diptych.activations import dump
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
model = Path(snakemake.input.model).parent
with devices.take_several(snakemake.resources.device, snakemake.resources.gpus_per_model) as granted:
    dump.dump(model, snakemake.input.tokens, snakemake.output[0], spec=spec, device=granted, **spec["settings"])
