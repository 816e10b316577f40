"""Fitted maps, read back from the artifact of `linear_map.stage.fit`.

with artifacts.read("linear_map.h5", "linear_map") as file:
    forward = load(file, "forward")              # the best rung, A -> B
    back = load(file, "backward", "ridge")       # the ridge map B -> A
"""

from typing import Literal

import h5py
import numpy as np

from diptych.affine_maps import affine

DirectionName = Literal["forward", "backward"]
DIRECTIONS: tuple[DirectionName, ...] = ("forward", "backward")


def load(file: h5py.File, direction: DirectionName, which: Literal["best", "ridge"] = "best") -> affine.LinearMap:
    """A map of an open `linear_map` artifact, trained on all folds but the test fold."""
    group = file[direction]
    return affine.LinearMap(group[f"{which}/slope"][:].astype(np.float64), group["mean_in"][:], group["mean_out"][:])
