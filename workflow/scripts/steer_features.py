"""Rule steer_features: continuations of both models of a pair, steered along its candidates."""

from pathlib import Path

import torch

from diptych.runtime import devices, logs
from diptych.steering import stage
from diptych.storage import artifacts

logs.start(snakemake.log[0], __file__)
spec = snakemake.params.spec
torch.set_num_threads(snakemake.threads)
paths = snakemake.input
runs = artifacts.below(Path(snakemake.output.table).parents[3], spec["reads"]["runs"])
for number, repeat in enumerate(runs["repeats"]):
    for side in "ab":
        repeat[f"features_{side}"] = paths[f"repeats_{side}"][number :: len(runs["repeats"])]
sides = {
    name.upper(): stage.Side(
        Path(paths[f"model_{name}"]).parent,
        paths[f"gates_{name}"],
        spec["reads"][f"site_{name}"],
        spec["reads"][f"dtype_{name}"],
    )
    for name in "ab"
}
with devices.take_several(snakemake.resources.device, snakemake.resources.gpus_per_model) as granted:
    stage.steer(
        dict(paths.items()) | runs,
        sides,
        snakemake.output.steering,
        snakemake.output.table,
        spec=spec,
        device=granted,
        **spec["settings"],
    )
