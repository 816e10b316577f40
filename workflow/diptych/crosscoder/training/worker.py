"""One training process: the stage as a script or torchrun starts it.

    start(job, processes=1)                         # in this process; more: with torchrun
    torchrun --nproc-per-node 4 -m diptych.crosscoder.training.worker job.json

`job` is plain data: where the `rows` are (`streaming.INPUTS`), `out`, `spec`, `devices`
(one a process), `threads` of each, `checkpoint_every`, `track`, `throughput`, and for torchrun's processes `log` and
`error`, the files for the log and for the line that says why a run stopped.
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
    """Train as `job` says on `device`, as one process of `group`."""
    spec = job["spec"]
    torch.set_num_threads(job["threads"])
    tracker = None
    if job["track"] and group.leads:
        directory = Path(job["out"]).with_name("tracking")
        name = " ".join(str(value) for value in spec["job"].values())
        tracker = tracking.open_tracker(job["track"], directory, name=name, settings=spec["settings"])
    stage.train(
        streaming.training_rows(job["rows"], spec["reads"], device),
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
    """Train in this process, or in several that torchrun starts."""
    if processes == 1:
        run(job, job["devices"][0])
    else:
        parallel.launch("diptych.crosscoder.training.worker", job, processes)


def main(description: str) -> None:
    """One of torchrun's processes."""
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
