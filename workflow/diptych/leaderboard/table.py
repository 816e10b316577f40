"""The entries of the leaderboard by name: those of the methods, the baselines, and other tools by their folder.

load("linear_map")            # its `Entry`
load_folder("mine", "tools/mine")
"""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

from diptych.leaderboard import names
from diptych.oracle.entry import Entry
from diptych.runtime.errors import DiptychError

FILE = "entry.py"
"""The module of another tool's folder."""


def load(name: str) -> Entry:
    """An entry by name."""
    entries: Mapping[str, Entry] = importlib.import_module(names.module_of(name)).ENTRIES
    return entries[name]


def load_folder(name: str, folder: str | Path) -> Entry:
    """Another tool's entry: the function `fit` of `entry.py` in its folder, where its own modules may lie beside it.

    The module may also say `TITLE`, its name in running text, and `ONE_BASIS`, whether it needs one basis for both
    models' rows.

    Raises:
        DiptychError: there is no such file, or no function `fit` in it.
    """
    path = Path(folder).resolve() / FILE
    if not path.is_file():
        raise DiptychError(f"leaderboard.tools.{name}: {folder} has no {FILE}; it has to define fit(rows_A, rows_B)")
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(f"leaderboard_tool_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    if not callable(getattr(module, "fit", None)):
        raise DiptychError(f"leaderboard.tools.{name}: {path.name} defines no function fit(rows_A, rows_B)")
    return Entry(getattr(module, "TITLE", name), module.fit, one_basis=bool(getattr(module, "ONE_BASIS", False)))
