"""Rule reproduce_lan2024: a published comparison of feature spaces as it was printed."""

from pathlib import Path

import torch

from diptych.dictionaries import sae
from diptych.runtime import devices, logs
from diptych.similarity import lan2024

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
given = snakemake.input
with devices.take(snakemake.resources.device) as device:
    lan2024.reproduce(
        Path(given.model_a).parent,
        Path(given.model_b).parent,
        sae.load(Path(given.dictionary_a).parent),
        sae.load(Path(given.dictionary_b).parent),
        given.tokens,
        snakemake.output[0],
        spec=spec,
        site_a=spec["reads"]["site_a"],
        site_b=spec["reads"]["site_b"],
        memory=snakemake.resources.correlation_mib * 2**20,
        device=device,
        **spec["settings"],
    )
