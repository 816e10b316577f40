"""The processes of crosscoder training, one of which is started by a script or several by torchrun.

    start(job, processes=1)                         # in this process; with more, torchrun starts them
    torchrun --nproc-per-node 4 -m diptych.crosscoder.training.worker job.json

`job` is a JSON object: the input files of the `rows` (`streaming.INPUTS`), `out`, `spec`, `devices` (one per process),
`model_devices` (of a stream's models, each a list to be spread over; without any, each process runs them on its own
device), `threads` per process, `checkpoint_every`, `track`, `throughput`, and for torchrun's processes the paths of the
`log` and of the `error` message of a run that stopped.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diptych.activations import streaming
from diptych.crosscoder.training import parallel, stage, tracking
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts


def run(job: Mapping[str, Any], device: str, group: parallel.Group = parallel.ALONE) -> None:
    """Train the crosscoder of `job` on `device`, as one process of `group`."""
    spec = job["spec"]
    torch.set_num_threads(job["threads"])
    model_devices = [*job["model_devices"][group.rank :], *job["model_devices"][: group.rank]] or [device]
    tracker = None
    if job["track"] and group.leads:
        directory = Path(job["out"]).with_name("tracking")
        name = " ".join(str(value) for value in spec["job"].values())
        tracker = tracking.open_tracker(job["track"], directory, name=name, settings=spec["settings"])
    stage.train(
        streaming.training_rows(job["rows"], spec["reads"], model_devices),
        job["out"],
        spec=spec,
        device=device,
        checkpoint_every=job["checkpoint_every"],
        group=group,
        tracker=tracker,
        throughput=job["throughput"],
        **spec["settings"],
    )
    if tracker is not None:
        tracker.close()


def start(job: dict[str, Any], processes: int) -> None:
    """Train the crosscoder of `job` in this process, or in several that torchrun starts."""
    if processes == 1:
        run(job, job["devices"][0])
    else:
        parallel.launch("diptych.crosscoder.training.worker", job, processes)


def main(description: str) -> None:
    """Entry point of a process that torchrun started; `description` is the path of the job."""
    parallel.end_with_parent()
    job = json.loads(Path(description).read_text(encoding="utf-8"))
    device = job["devices"][int(os.environ["LOCAL_RANK"]) % len(job["devices"])]
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    group = parallel.join(device)
    if group.leads:
        logs.follow(job["log"])
    try:
        run(job, device, group)
    except DiptychError as error:
        artifacts.write_text(job["error"], str(error))
        sys.exit(1)
    finally:
        parallel.leave(group)


if __name__ == "__main__":
    main(sys.argv[1])
