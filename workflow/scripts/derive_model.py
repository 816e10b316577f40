"""Rule derive_model: a merged adapter, a fine-tune, a trigger, a planted edit or redrawn weights of another model."""

from pathlib import Path

import torch

from diptych.derive import finetune, merge, plant, rerandomize, trigger
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
parent, out = (Path(manifest).parent for manifest in (snakemake.input.parent, snakemake.output[0]))
with devices.take(snakemake.resources.device) as device:
    match spec["reads"]["kind"]:
        case "finetune" | "trigger":
            tune = finetune.finetune if spec["reads"]["kind"] == "finetune" else trigger.trigger
            tune(
                parent,
                snakemake.input.tokens,
                snakemake.input.evaluation_tokens,
                out,
                spec=spec,
                device=device,
                checkpoint_every=snakemake.resources.checkpoint_every,
                **spec["settings"],
            )
        case "adapter":
            merge.merge(parent, Path(snakemake.input.adapter).parent, out, spec=spec)
        case "plant":
            plant.plant(parent, snakemake.input.tokens, out, spec=spec, device=device, **spec["settings"])
        case "rerandomize":
            rerandomize.rerandomize(parent, out, spec=spec, **spec["settings"])
