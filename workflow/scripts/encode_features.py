"""Rule encode_features: one shard of one model's rows to the sparse codes of a dictionary."""

from pathlib import Path

import torch

from diptych import devices, dictionaries, features, logs, rows

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
place = rows.Model([snakemake.input.shards], snakemake.input.gates, snakemake.input.tokens, spec["reads"]["site"])
dictionary = dictionaries.load(Path(snakemake.input.dictionary).parent)
with devices.take(snakemake.resources.device) as device:
    features.encode(rows.stored([place]), dictionary, snakemake.output[0], spec=spec, device=device, **spec["settings"])
