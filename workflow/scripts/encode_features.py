"""Rule encode_features: sparse codes of one shard of one model's activations in a dictionary."""

from functools import partial
from pathlib import Path

import torch

from diptych.activations import rows
from diptych.dictionaries import encoding, layer_check, sae
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
files = rows.RowFiles([snakemake.input.shards], snakemake.input.gates, snakemake.input.tokens, spec["reads"]["site"])
dictionary = sae.load(Path(snakemake.input.dictionary).parent)
with devices.take(snakemake.resources.device) as device:
    layers = partial(layer_check.measure, snakemake.input.shards, files.gates, files.site, dictionary, device)
    out = snakemake.output[0]
    encoding.encode(rows.stored([files]), dictionary, out, spec=spec, layers=layers, device=device, **spec["settings"])
