"""Tables as text, for a spreadsheet or a plot of one's own, beside the HDF5 that holds the same numbers in full."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def tsv(columns: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]], comment: str = "") -> str:
    """Equally long columns as tab-separated text with a header, below a line `# comment` if there is one.

    Numbers to six digits, NaN as nothing, truth values as 0 and 1, no tab or line end inside a cell. A cell with a
    quote or # is quoted as in RFC 4180, so that readers that know comments and quotes get the cell back:
    `pandas.read_csv(path, sep="\\t", comment="#")`.

    >>> print(tsv({"rung": ["identity", "#1"], "r2": [0.25, 1.0]}), end="")
    rung	r2
    identity	0.25
    "#1"	1
    """
    rows = zip(*columns.values(), strict=True)
    lines = ["\t".join(columns), *("\t".join(cell(value) for value in row) for row in rows)]
    return "\n".join([f"# {comment}", *lines] if comment else lines) + "\n"


def cell(value: Any) -> str:
    """One value as text."""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:.6g}"
    text = " ".join(str(value).split())
    return '"' + text.replace('"', '""') + '"' if '"' in text or "#" in text else text
