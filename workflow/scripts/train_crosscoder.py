"""Rule train_crosscoder: one run of a crosscoder over the rows of its models."""

from diptych.activations import streaming
from diptych.crosscoder.training import worker
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
paths, resources = snakemake.input, snakemake.resources
with devices.take_several(resources.device, resources.processes + resources.model_gpus) as granted:
    model_devices, width = granted[resources.processes :], resources.gpus_per_model
    job = {
        "rows": streaming.input_lists(paths),
        "out": snakemake.output[0],
        "spec": snakemake.params.spec,
        "devices": granted[: resources.processes],
        "model_devices": [model_devices[i : i + width] for i in range(0, len(model_devices), width)],
        "threads": max(1, snakemake.threads // resources.processes),
        "checkpoint_every": resources.checkpoint_every,
        "track": resources.track.split(),
        "throughput": snakemake.log.throughput,
        "log": snakemake.log[0],
    }
    worker.start(job, resources.processes)
