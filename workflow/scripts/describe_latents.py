"""Rule describe_latents: class, statistics and top rows of each latent of a crosscoder."""

import torch

from diptych.activations import rows
from diptych.crosscoder.evaluation import latents
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
paths = snakemake.input
files = rows.split_files(paths.shards, paths.gates, paths.tokens, spec["reads"]["site"])
with devices.take(snakemake.resources.device) as device:
    pair = rows.stored(files, paths.get("alignment") or None, spec["reads"]["rows"])
    latents.describe(paths.weights, pair, snakemake.output[0], spec=spec, device=device, **spec["settings"])
