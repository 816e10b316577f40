"""Logging of training curves to Weights & Biases or TensorBoard.

    tracker = open_tracker(["wandb"], "results/.../tracking", name="tuned seed 0", settings={"k": 32})
    tracker.log({"step": 0, "loss": 812.0, "fvu": [0.9, 0.8]})

A package is needed only if it is configured. Weights & Biases runs offline unless WANDB_MODE says otherwise
(`wandb sync` uploads later). Tracking does not affect any result, so changing it re-runs nothing.
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from diptych.runtime.errors import DiptychError

PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard"}
PROJECT = "diptych"


class Tracker(Protocol):
    """Destination of the points of a training curve."""

    def log(self, point: Mapping[str, Any]) -> None:
        """Log one point: `step`, and numbers or lists of numbers (one per model) by name."""

    def close(self) -> None:
        """Flush and close."""


def open_tracker(kinds: Sequence[str], directory: str | Path, *, name: str, settings: Mapping[str, Any]) -> Tracker:
    """A tracker that writes below `directory` to each of `kinds` (wandb, tensorboard).

    Raises:
        DiptychError: a package is not installed.
    """
    for kind in kinds:
        if importlib.util.find_spec(PACKAGES[kind]) is None:
            raise DiptychError(
                f"crosscoder: track {kind} needs the package {PACKAGES[kind]}; install it or leave it out"
            )
    Path(directory).mkdir(parents=True, exist_ok=True)
    return Trackers([_open(kind, Path(directory), name, settings) for kind in kinds])


def _open(kind: str, directory: Path, name: str, settings: Mapping[str, Any]) -> Tracker:
    if kind == "wandb":
        return WandbTracker(directory, name, settings)
    return TensorBoardTracker(directory, settings)


def flat(point: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name, `step` left out; a list gives `name/0`, `name/1`, ..."""
    numbers: dict[str, float] = {}
    for key, value in point.items():
        if isinstance(value, list):
            numbers |= {f"{key}/{model}": float(part) for model, part in enumerate(value)}
        elif key != "step":
            numbers[key] = float(value)
    return numbers


class Trackers:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, point: Mapping[str, Any]) -> None:
        """Log a point to all."""
        for tracker in self._trackers:
            tracker.log(point)

    def close(self) -> None:
        """Close all."""
        for tracker in self._trackers:
            tracker.close()


class WandbTracker:
    """Weights & Biases, offline unless WANDB_MODE says otherwise."""

    def __init__(self, directory: Path, name: str, settings: Mapping[str, Any]) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(project=PROJECT, name=name, dir=directory, config=dict(settings), mode=mode)

    def log(self, point: Mapping[str, Any]) -> None:
        """Log one step."""
        self._run.log(flat(point), step=int(point["step"]))

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class TensorBoardTracker:
    """TensorBoard event files; `tensorboard --logdir` shows them."""

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory / "tensorboard"))
        self._writer.add_text("settings", repr(dict(settings)))

    def log(self, point: Mapping[str, Any]) -> None:
        """Write one step."""
        for name, value in flat(point).items():
            self._writer.add_scalar(name, value, int(point["step"]))

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()
