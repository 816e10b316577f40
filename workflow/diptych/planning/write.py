"""Print the plan of a study: what each stage will take, before anything runs.

python -m diptych.planning.write config/studies/crosscoder-gemma-2-2b.yaml --device h100
python -m diptych.planning.write config/config.yaml overlay.yaml        # later files win, as in Snakemake
DEVICE=a100 snakemake plan --configfile config/studies/poisoned.yaml

Ends with 1 if the device, or the memory or disk of this machine, cannot hold the study, and says which key to change.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from diptych.config import loading
from diptych.config.study import Study
from diptych.planning import machines, text
from diptych.planning import plan as plans
from diptych.runtime.errors import DiptychError

DEVICE = "DEVICE"
"""Environment variable that names the device where the command line does not."""


def write(study: Study, device: str | None = None) -> None:
    """Print the plan of a study on a device (its key; None: the processor if the study says so, else an H100).

    Raises:
        DiptychError: unknown device or shapes; or, after the plan, the study does not fit.
    """
    key = device or ("cpu" if study.device == "cpu" else machines.DEFAULT)
    plan = plans.make(study, machines.named(key))
    print(text.render(plan), flush=True)
    if lines := plan.shortages(plans.this_machine(study)):
        raise DiptychError("does not fit: " + "; ".join(lines))


def read(paths: Sequence[str]) -> Study:
    """The study of config files, of which later ones win key by key."""
    loading.check_keys(paths)
    config: dict[str, Any] = {}
    for path in paths:
        _update(config, yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {})
    return loading.load(config)


def _update(config: dict[str, Any], later: Mapping[str, Any]) -> None:
    for key, value in later.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            _update(config[key], value)
        else:
            config[key] = value


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m diptych.planning.write", description=__doc__.partition("\n")[0])
    parser.add_argument("config", nargs="+", help="config files; later ones win")
    parser.add_argument("--device", help=", ".join(machines.DEVICES), default=os.environ.get(DEVICE))
    options = parser.parse_args(arguments)
    try:
        write(read(options.config), options.device)
    except DiptychError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}; name a config file", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
