"""A hub on this machine: the endpoints that huggingface_hub and datasets read, and the ways in which they fail.

    with Hub() as hub:
        hub.publish("owner/model", directory)
        hub.faults.append(Fault("GET .*/resolve/", status=429, headers={"Retry-After": "7"}, times=1))
        ...     # with HF_ENDPOINT=hub.url

Answers follow the real hub's: X-Error-Code, X-Repo-Commit, ETag (git's SHA-1) or X-Linked-Etag (SHA-256 of a file in
large file storage), Range; what a gated repository is called may be read, its files not.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c" * 40
LARGE = (".safetensors", ".pt", ".parquet")
"""Files in large file storage."""
INFO = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/revision/([^/]+))?")
ACTION = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(tree|paths-info|auth-check)(?:/([^/]+))?(?:/(.*))?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Fault:
    """An answer in place of the right one, for requests ("GET /path") that match, the first `times` of them."""

    request: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    after: int = 0
    """Requests that match and are answered rightly before."""
    times: float = float("inf")
    cut: int | None = None
    """Bytes of the right answer after which the connection is closed."""
    matched: int = 0
    """Requests so far that match."""


class Hub:
    """Repositories, the faults to come, and the requests that were made."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Method and path, and headers by their names in lower case."""
        self.claims: dict[str, str] = {}
        """Hashes that the hub says of files, by path, where they are not those of what it sends."""

    def __enter__(self) -> Self:
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def publish(self, name: str, directory: Path, kind: str = "models") -> None:
        """Offer the files of a directory as a repository's."""
        files = {file.relative_to(directory).as_posix(): file for file in directory.rglob("*") if file.is_file()}
        self.files[kind, name] = {path: file.read_bytes() for path, file in sorted(files.items())}

    def count(self, pattern: str) -> int:
        """Requests so far that match."""
        return sum(re.match(pattern, request) is not None for request, _ in self.requests)

    def describe(self, path: str, content: bytes) -> dict[str, object]:
        """What listings say of a file."""
        git, large = hash_of(content), path.endswith(LARGE)
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(content)}
        entry["oid"] = git if large else self.claims.get(path, git)
        if large:
            entry["lfs"] = {"oid": self.etag(path, content), "size": len(content), "pointerSize": 130}
        return entry

    def etag(self, path: str, content: bytes) -> str:
        """The hash by which the hub calls a file."""
        sha256 = hashlib.sha256(content).hexdigest()
        return self.claims.get(path, sha256 if path.endswith(LARGE) else hash_of(content))


def hash_of(content: bytes) -> str:
    """Git's SHA-1 of a file."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        if path != "/api/agent-harnesses":  # the client asks once a day who runs it
            self.hub.requests.append((request, {key.lower(): value for key, value in self.headers.items()}))
        self.posted = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.cut = None
        for fault in self.hub.faults:
            if re.match(fault.request, request) and (number := fault.matched) < fault.after + fault.times:
                fault.matched += 1
                if number < fault.after:
                    continue
                if fault.cut is None:
                    return self.send(fault.status, fault.body.encode(), fault.headers)
                self.cut = fault.cut
        if file := FILE.fullmatch(path):
            return self.file("datasets" if file[1] else "models", file[2], file[3], file[4])
        if action := ACTION.fullmatch(path):
            return self.action(*action.groups())
        if info := INFO.fullmatch(path):
            return self.info(*info.groups())
        return self.refuse(404, "", "no such page")

    do_HEAD = do_POST = do_GET

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send(status, json.dumps({"error": message}).encode(), headers)

    def found(self, kind: str, name: str, revision: str | None) -> bool:
        if (kind, name) not in self.hub.files:
            self.refuse(401, "RepoNotFound", "Invalid username or password.")
        elif revision not in (None, "main", COMMIT):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return True
        return False

    def admitted(self, name: str) -> bool:
        if name in self.hub.gated:
            self.refuse(403, "GatedRepo", f"Access to model {name} is restricted.")
        return name not in self.hub.gated

    def info(self, kind: str, name: str, revision: str | None) -> None:
        if self.found(kind, name, revision):
            files = [{"rfilename": path} for path in self.hub.files[kind, name]]
            self.json({"_id": "0", "id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": files})

    def action(self, kind: str, name: str, action: str, revision: str | None, folder: str | None) -> None:
        if not self.found(kind, name, revision):
            return
        files = self.hub.files[kind, name]
        if action == "auth-check":
            if self.admitted(name):
                self.json({})
        elif action == "paths-info":
            asked = parse_qs(self.posted.decode()).get("paths", [])
            self.json([self.hub.describe(path, files[path]) for path in asked if path in files])
        else:
            inside = {path: content for path, content in files.items() if path.startswith(folder or "")}
            self.json([self.hub.describe(path, content) for path, content in inside.items()])

    def file(self, kind: str, name: str, revision: str, path: str) -> None:
        if not self.found(kind, name, revision) or not self.admitted(name):
            return None
        if path not in self.hub.files[kind, name]:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        content = self.hub.files[kind, name][path]
        tag = f'"{self.hub.etag(path, content)}"'
        headers = {"X-Repo-Commit": COMMIT, "ETag": tag, "Accept-Ranges": "bytes"}
        if path.endswith(LARGE):
            headers |= {"X-Linked-Etag": tag, "X-Linked-Size": str(len(content)), "ETag": '"of the store"'}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self.send(206, content[first : last + 1], headers)
        return self.send(200, content, headers)

    def json(self, values: object) -> None:
        self.send(200, json.dumps(values).encode(), {"X-Repo-Commit": COMMIT, "Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: self.cut])
        if self.cut is not None and self.command != "HEAD":
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""
