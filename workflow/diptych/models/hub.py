"""The Hugging Face hub: files of a repository at a revision, out of the local cache or downloaded into it.

    directory = snapshot("owner/name", "main", ["config.json", "*.safetensors"])
    with reading(Repository("owner/name", "main", "dictionary")):
        ...     # whatever asks the hub by itself: a failure is one line that says what to do

Requests wait while the hub is busy (`hub_session`), and downloaded files are compared with the hub's hashes
(`hub_cache`). Messages never repeat what a server says: it could repeat the token.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from diptych.models import hub_cache
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError, first_line

LOGIN = "log in with `hf auth login`"


class Repository(NamedTuple):
    """A repository on the hub at a revision (commit, tag or branch), and the kind of its content, for messages."""

    name: str
    revision: str
    what: str = "model"

    def __str__(self) -> str:
        return f"{self.what} {self.name} at revision {self.revision}"

    @property
    def page(self) -> str:
        """Address of its page."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' * (self.what == 'dataset')}{self.name}"


def snapshot(name: str, revision: str, patterns: Iterable[str], what: str = "model") -> Path:
    """Directory of the hub's cache with the files of a repository that match `patterns`.

    Args:
        name: owner/name on the hub.
        revision: commit, tag or branch.
        patterns: of the files that are downloaded if they are not there.
        what: kind of the repository's content, for messages.

    Raises:
        DiptychError: it is missing, gated, has no such revision, is not cached and the hub cannot be reached, or a
            file is not the one that the hub has.
    """
    from huggingface_hub import snapshot_download

    repository, wanted = Repository(name, revision, what), list(patterns)
    try:
        with reading(repository):
            directory = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except OSError as error:
        if logs.out_of_space(error):
            raise
        raise DiptychError(f"{repository}: cannot be fetched ({first_line(error)}); run again") from error
    hub_cache.verify(hub_cache.matching(directory, wanted), str(repository))
    return directory


def verify(repository: Repository, folder: str, where: str) -> None:
    """Compare a folder or file of a repository with the hub's hashes, as far as it is in the local cache.

    Args:
        repository: on the hub.
        folder: path in it.
        where: what messages begin with.

    Raises:
        DiptychError: a file is not the one that the hub has.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        held = snapshot_download(
            repository.name, revision=repository.revision, local_files_only=True, allow_patterns=[]
        )
    except errors.LocalEntryNotFoundError:
        return
    hub_cache.verify(hub_cache.matching(Path(held), [folder, f"{folder}/*"]), where)


@contextmanager
def reading(repository: Repository, where: str | None = None) -> Iterator[None]:
    """Requests to the hub wait while it is busy, and a failure of its client is one line.

    Args:
        repository: what is read.
        where: what messages begin with; the repository if None.

    Raises:
        DiptychError: what the hub, or the way to it, refuses. Other errors pass.
    """
    from diptych.models import hub_session

    hub_session.start()
    try:
        yield
    except Exception as error:  # the client has some twenty kinds of error, with three bases
        if (problem := problem_of(error, repository)) is None:
            raise
        raise DiptychError(f"{where or repository}: {problem}") from error


def problem_of_access(repository: Repository) -> str | None:
    """What keeps a dataset from being read, asked of the hub itself, or None if nothing does.

    `datasets` says of most failures only that there was one.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(repository.name, revision=repository.revision)
        HfApi().auth_check(repository.name, repo_type="dataset")
    except Exception as error:
        return problem_of(error, repository)
    return None


def problem_of(error: BaseException, repository: Repository) -> str | None:
    """What an error of the hub's client means and what to do, or None if it has another cause."""
    import httpx2
    from huggingface_hub import constants, errors

    causes = list(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> BaseException | None:
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    if isinstance(refusal := caused_by(errors.HfHubHTTPError), errors.HfHubHTTPError):
        return _refusal(refusal, repository)
    if invalid := caused_by(errors.HFValidationError):
        return f"not a hub id ({first_line(invalid)}); write owner/name"
    missing = re.search(r"are missing (\(.*?\))\. ", str(caused_by(errors.IncompleteSnapshotError)))
    local = f"only partly in the local cache {missing[1]}" if missing else "not in the local cache"
    if caused_by(errors.OfflineModeIsEnabled) or constants.is_offline_mode():
        return f"{local}, and HF_HUB_OFFLINE is set; unset it, or download it where there is a network"
    if cut := caused_by(httpx2.RemoteProtocolError, httpx2.ReadError):
        return f"the transfer was cut and did not go on ({first_line(cut)}); run again, whole files are kept"
    if down := caused_by(httpx2.TransportError) or caused_by(errors.LocalEntryNotFoundError, ConnectionError):
        return f"{local} and the hub cannot be reached ({first_line(down)}); check the network, proxy and HF_ENDPOINT"
    return None


def _refusal(error: "Exception", repository: Repository) -> str:
    """What an answer of the hub that is no success means, and what to do."""
    from huggingface_hub import errors

    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    path = re.search("/resolve/[^/]+/(.+)", unquote(response.request.url.path)) if response is not None else None
    file = f"file {path[1]}: " if path else ""
    match error:
        case errors.GatedRepoError():
            return f"{file}gated; accept its terms at {repository.page} and {LOGIN}"
        case errors.RevisionNotFoundError():
            return f"the {repository.what} has no such revision; use a commit, tag or branch of it"
        case errors.RepositoryNotFoundError():
            return f"no such {repository.what} on the hub, or it is private; check the id, or {LOGIN}"
        case errors.RemoteEntryNotFoundError():
            return f"{file}not in the repository; check the name"
        case _ if status == 401:
            return f"{file}the hub does not accept the token (401); {LOGIN} again"
        case _ if status == 403:
            return f"{file}the token may not read it (403); {LOGIN} with one that may"
        case _ if status == 429:
            return f"{file}the hub takes no more requests for now (429); {LOGIN} for a higher limit, or run again later"
        case _ if status is not None and status >= 500:
            return f"{file}the hub fails ({status}), also when asked again; run again later"
    return f"{file}the hub refuses it ({status or first_line(error)}); check id and revision"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
