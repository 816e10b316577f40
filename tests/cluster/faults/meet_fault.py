"""A job of ten steps with a checkpoint after each, which meets its fault after the third step of its first attempt."""

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
                hoard = bytearray(os.urandom(2**20)) * 3000
                time.sleep(60)
            case "cancel" | "time" | "node" | "controller":
                output.with_suffix(".waits").touch()
                time.sleep(8 if snakemake.wildcards.fault == "controller" else 600)
    checkpoint.save({"step": step + 1})
gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
artifacts.write_text(output, f"{resources.attempt} {first} {resources.mem_mb} {gpus or '-'} {begun} {time.time()}\n")
checkpoint.remove()
