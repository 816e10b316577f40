"""Rule evaluate_crosscoder: fidelity of a crosscoder on held-out rows, and losses with it spliced into its models."""

from pathlib import Path

import torch

from diptych.activations import rows
from diptych.crosscoder.evaluation import stage
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
paths, site = snakemake.input, spec["reads"]["site"]
files = rows.split_files(paths.shards, paths.gates, paths.tokens, site)
splice = [
    {"directory": Path(manifest).parent, "tokens": model.tokens, "shard": model.shards[0]}
    for manifest, model in zip(paths.get("models", []), files, strict=False)
]
with devices.take_several(snakemake.resources.device, snakemake.resources.gpus_per_model) as granted:
    pair = rows.stored(files, paths.get("alignment") or None, spec["reads"]["rows"])
    stage.evaluate(
        paths.weights,
        pair,
        snakemake.output[0],
        spec=spec,
        splice=splice,
        site=site,
        device=granted,
        **spec["settings"],
    )
