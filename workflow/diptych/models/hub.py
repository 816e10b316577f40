"""The Hugging Face hub: files of a repository at a revision, out of the local cache or downloaded into it."""

import re
from collections.abc import Iterable
from pathlib import Path

from diptych.runtime.errors import DiptychError, first_line


def snapshot(name: str, revision: str, patterns: Iterable[str], what: str = "model") -> Path:
    """Directory of the hub's cache with the files of a repository that match `patterns`.

    Args:
        name: owner/name on the hub.
        revision: commit, tag or branch.
        patterns: of the files that are downloaded if they are not there.
        what: kind of the repository's content, for messages.

    Raises:
        DiptychError: it is missing, gated, has no such revision, or is not cached and the hub cannot be reached.
    """
    from huggingface_hub import errors, snapshot_download

    where = f"{what} {name} at revision {revision}"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        raise DiptychError(
            f"{where}: gated; accept its terms on huggingface.co/{name} and log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DiptychError(f"{where}: the {what} has no such revision; use a commit, tag or branch of it") from error
    except errors.RepositoryNotFoundError as error:
        raise DiptychError(f"{where}: no such {what} on the hub, or it is private; check the id") from error
    except errors.HFValidationError as error:
        raise DiptychError(f"{where}: not a hub id ({first_line(error)}); write owner/name") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        raise DiptychError(
            f"{where}: not in the local cache and the hub cannot be reached ({first_line(error)})"
        ) from error


def is_snapshot(directory: Path) -> bool:
    """Whether a directory is one of the hub's cache: called by its commit, its files links to blobs beside it."""
    return directory.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", directory.name) is not None


def blobs(directory: Path) -> Path:
    """Directory of the files that a snapshot in the hub's cache links to."""
    return directory.parents[1] / "blobs"
