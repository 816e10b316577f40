"""Rule derive_model: a merged adapter, a fine-tune, trigger, student, planted edit or redrawn weights of a model."""

from pathlib import Path

import torch

from diptych.derive import distill, finetune, merge, plant, rerandomize, trigger
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
parent, out = (Path(manifest).parent for manifest in (snakemake.input.parent, snakemake.output[0]))
with devices.take_several(snakemake.resources.device, snakemake.resources.gpus_per_model) as granted:
    match spec["reads"]["kind"]:
        case "finetune" | "trigger" | "distill" as kind:
            train = {"finetune": finetune.finetune, "trigger": trigger.trigger, "distill": distill.distill}[kind]
            train(
                parent,
                snakemake.input.tokens,
                snakemake.input.evaluation_tokens,
                out,
                spec=spec,
                device=granted[0],
                checkpoint_every=snakemake.resources.checkpoint_every,
                **spec["settings"],
            )
        case "adapter":
            merge.merge(parent, Path(snakemake.input.adapter).parent, out, spec=spec)
        case "plant":
            plant.plant(parent, snakemake.input.tokens, out, spec=spec, device=granted, **spec["settings"])
        case "rerandomize":
            rerandomize.rerandomize(parent, out, spec=spec, **spec["settings"])
