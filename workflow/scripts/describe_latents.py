"""Rule describe_latents: what each latent of a crosscoder is, and to which model it belongs."""

import torch

from diptych.activations import rows
from diptych.crosscoder.evaluation import latents
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
given = snakemake.input
files = rows.split_files(given.shards, given.gates, given.tokens, spec["reads"]["site"])
with devices.take(snakemake.resources.device) as device:
    pair = rows.stored(files, given.get("alignment") or None, spec["reads"]["rows"])
    latents.describe(given.weights, pair, snakemake.output[0], spec=spec, device=device, **spec["settings"])
