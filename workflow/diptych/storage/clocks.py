"""Files dated in the future: a clock that jumped, or another machine's that is ahead.

Snakemake takes a job for failed, and deletes what it made, if a file that it read is dated later than its results. So
what a study holds from the future is dated now when a run starts; contents decide what runs again, not dates.

    clocks.date_now(Path("results"))        # files that were dated in the future
"""

import os
import time
from pathlib import Path


def date_now(directory: Path) -> list[Path]:
    """Date the files of a directory that are dated in the future now; those files, sorted."""
    now = time.time()
    files = (path for path in directory.rglob("*") if path.is_file())
    ahead = sorted(path for path in files if path.stat().st_mtime > now)
    for path in ahead:
        os.utime(path, (now, now))
    return ahead
