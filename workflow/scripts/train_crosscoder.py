"""Rule train_crosscoder: one run of a crosscoder over the rows of its models."""

from diptych.activations import streaming
from diptych.crosscoder.training import worker
from diptych.runtime import devices, logs

logs.start(snakemake.log[0], __file__)
given, how = snakemake.input, snakemake.resources
with devices.take_several(how.device, how.processes) as taken:
    job = {
        "rows": streaming.input_lists(given),
        "out": snakemake.output[0],
        "spec": snakemake.params.spec,
        "devices": taken,
        "threads": max(1, snakemake.threads // how.processes),
        "checkpoint_every": how.checkpoint_every,
        "track": how.track.split(),
        "throughput": snakemake.log.throughput,
        "log": snakemake.log[0],
    }
    worker.start(job, how.processes)
