"""A job of ten steps with a checkpoint after each, which meets its fault after the third step of its first attempt."""

import json
import os
import time
from pathlib import Path

from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.storage import artifacts
from diptych.storage.checkpoints import Checkpoint

begun = time.time()
logs.start(snakemake.log[0], __file__)
output, resources = Path(snakemake.output[0]), snakemake.resources
checkpoint = Checkpoint.beside(output, {})
state = checkpoint.load("cpu") or {"step": 0}
first = state["step"]
for step in range(first, 10):
    if step == 3 and first == 0:
        match snakemake.wildcards.fault:
            case "fail":
                raise DiptychError("study.key: a problem that a user can mend")
            case "memory":
                hoard = bytearray(os.urandom(2**20)) * 1800
                time.sleep(60)
            case "cancel" | "time" | "node" | "controller":
                output.with_suffix(".waits").touch()
                while not output.with_suffix(".over").exists():
                    time.sleep(0.1)
    checkpoint.save({"step": step + 1})
outcome = {
    "attempt": resources.attempt, "first": first, "mem_mb": resources.mem_mb, "runtime": resources.runtime,
    "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "begun": begun, "ended": time.time(),
}  # fmt: skip
artifacts.write_text(output, json.dumps(outcome))
checkpoint.remove()
