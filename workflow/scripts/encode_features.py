"""Rule encode_features: one shard of one model's rows to the sparse codes of a dictionary."""

from functools import partial
from pathlib import Path

import torch

from diptych.activations import rows
from diptych.dictionaries import encoding, layer_check, sae
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
place = rows.RowFiles([snakemake.input.shards], snakemake.input.gates, snakemake.input.tokens, spec["reads"]["site"])
dictionary = sae.load(Path(snakemake.input.dictionary).parent)
with devices.take(snakemake.resources.device) as device:
    layers = partial(layer_check.measure, snakemake.input.shards, place.gates, place.site, dictionary, device)
    out = snakemake.output[0]
    encoding.encode(rows.stored([place]), dictionary, out, spec=spec, layers=layers, device=device, **spec["settings"])
