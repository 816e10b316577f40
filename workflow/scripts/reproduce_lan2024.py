"""Rule reproduce_lan2024: the published comparison of feature spaces of Lan et al. (2024)."""

from pathlib import Path

import torch

from diptych.dictionaries import sae
from diptych.runtime import devices, logs
from diptych.similarity import lan2024

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
paths = snakemake.input
with devices.take_several(snakemake.resources.device, snakemake.resources.gpus_per_model) as granted:
    lan2024.reproduce(
        Path(paths.model_a).parent,
        Path(paths.model_b).parent,
        sae.load(Path(paths.dictionary_a).parent),
        sae.load(Path(paths.dictionary_b).parent),
        paths.tokens,
        snakemake.output[0],
        spec=spec,
        site_a=spec["reads"]["site_a"],
        site_b=spec["reads"]["site_b"],
        memory=snakemake.resources.correlation_mib * 2**20,
        device=granted,
        **spec["settings"],
    )
