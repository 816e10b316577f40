"""Rule compare_outputs: what two models say differently, next token by next token."""

from pathlib import Path

import torch

from diptych.outputs import stage
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
paths = snakemake.input
a, b = (
    stage.Model(Path(paths[f"model_{side}"]).parent, Path(paths[f"tokens_{side}"]), spec["reads"][f"dtype_{side}"])
    for side in "ab"
)
with devices.take_several(snakemake.resources.device, snakemake.resources.gpus_per_model) as granted:
    stage.compare(
        a,
        b,
        snakemake.output.outputs,
        snakemake.output.table,
        spec=spec,
        alignment=paths.get("alignment") or None,
        prompts=paths.get("prompts") or None,
        device=granted,
        **spec["settings"],
    )
