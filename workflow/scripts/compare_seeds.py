"""Rule compare_seeds: recovery of the latents of a crosscoder across its seeds."""

import torch

from diptych.crosscoder import seeds
from diptych.runtime import logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
seeds.compare(list(snakemake.input), snakemake.output[0], spec=spec, **spec["settings"])
