"""Rule compare_weights: what changed between the weights of two models, tensor by tensor."""

from pathlib import Path

import torch

from diptych.runtime import logs
from diptych.weights import stage

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
model_a, model_b = (Path(manifest).parent for manifest in (snakemake.input.model_a, snakemake.input.model_b))
stage.compare(model_a, model_b, snakemake.output.weights, table=snakemake.output.table, spec=spec, **spec["settings"])
