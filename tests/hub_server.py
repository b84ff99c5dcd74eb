"""A hub on 127.0.0.1: just enough of the protocol for `huggingface_hub` to list and download model repositories.

    with HubServer({"owner/name": folder}) as hub:   # or {"owner/name": {"main": folder, "v1": other_folder}}
        os.environ["HF_ENDPOINT"] = hub.url          # before huggingface_hub is imported; else see `point_at`
        ...
        hub.log                                      # ["GET /api/models/owner/name", ...]

Faults are switched on by attributes: `gated`, `tokens`, `down`, `short`, `cut` (see `HubServer`).
"""

import contextlib
import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class HubServer:
    """Serve folders as the repositories of a hub, and remember what was asked."""

    def __init__(self, repos: dict[str, Path | dict[str, Path]]):
        self.repos = {name: r if isinstance(r, dict) else {"main": r} for name, r in repos.items()}
        self.log: list[str] = []
        self.gated: set[str] = set()  # repositories that exist but ask for accepted terms
        self.tokens: dict[str, str] = {}  # private repositories and the token that opens them
        self.down = 0  # answer everything with this status
        self.short: set[str] = set()  # files of which only half is sent, as if that were all
        self.cut: set[str] = set()  # files whose first transfer breaks off in the middle
        self._http = _Http(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Be gone: from now on connections are refused."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()
        for connection in self._http.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def downloads(self) -> list[str]:
        """The names of the files whose content was sent, in order."""
        return [line.rsplit("/", 1)[1] for line in self.log if line.startswith("GET") and "/resolve/" in line]


def sha(folder: Path) -> str:
    """The commit of a folder: its content decides."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return hashlib.sha1(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args):
        super().__init__(*args)
        self.connections = []

    def process_request(self, request, client_address):
        """Remember a connection: clients keep them open, and `stop` must end them."""
        self.connections.append(request)
        super().process_request(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_):
        """Stay silent."""

    def do_HEAD(self):
        """Answer with headers only."""
        self.do_GET()

    def do_GET(self):
        """Answer the three kinds of request: info, tree, file."""
        path = urlsplit(self.path).path
        self.hub.log.append(f"{self.command} {unquote(path)}")
        if self.hub.down:
            return self.answer(self.hub.down, b"out of order")
        api = path.startswith("/api/models/")
        parts = [unquote(part) for part in path.removeprefix("/api/models/").strip("/").split("/")]
        name, verb, revision, rest = "/".join(parts[:2]), parts[2:3], (parts[3:4] or ["main"])[0], "/".join(parts[4:])
        folder = self.permitted(name, revision)
        if folder is None:
            return None
        if not api and name in self.hub.gated:  # the list of files is public, the files are not
            return self.refuse(403, "GatedRepo", f"Access to model {name} is restricted.")
        if not api:
            return self.file(folder, rest)
        return self.tree(folder) if verb == ["tree"] else self.info(name, folder)

    def permitted(self, name, revision):
        """The folder of a repository's revision; None after an error was answered."""
        sent = self.headers.get("authorization", "").removeprefix("Bearer ")
        if name not in self.hub.repos:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        if name in self.hub.tokens and not sent:
            return self.refuse(401, "RepoNotFound", "Invalid username or password.")
        if name in self.hub.tokens and sent != self.hub.tokens[name]:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        revisions = self.hub.repos[name]
        found = revisions.get(revision) or next((f for f in revisions.values() if sha(f) == revision), None)
        return found or self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def info(self, name, folder):
        """Answer what `model_info` asks."""
        siblings = [{"rfilename": file.relative_to(folder).as_posix()} for file in _files(folder)]
        self.json({"id": name, "modelId": name, "sha": sha(folder), "siblings": siblings, "tags": []})

    def tree(self, folder):
        """Answer what `list_repo_tree` asks."""
        sizes = [(file.relative_to(folder).as_posix(), file.stat().st_size, _etag(file)) for file in _files(folder)]
        self.json([{"type": "file", "path": path, "size": size, "oid": oid} for path, size, oid in sizes])

    def file(self, folder, rest):
        """Send a file, or a part of it, or less than was promised."""
        path = folder / rest
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", f"Entry not found: {rest}")
        body, headers = path.read_bytes(), {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": sha(folder)}
        get = self.command == "GET"
        if get and rest in self.hub.short:
            return self.answer(200, body[: len(body) // 2], headers)
        if get and rest in self.hub.cut:
            self.hub.cut.discard(rest)
            return self.answer(200, body[: len(body) // 2], headers, promise=len(body))
        start = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").split("-")[0]) if get else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return self.answer(206 if start else 200, body[start:], headers)

    def json(self, value):
        """Answer with JSON."""
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status, code, message):
        """Answer with an error as the hub words it."""
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def answer(self, status, body, headers=None, promise=None):
        """Send status, headers and body; `promise` is a length that will not be kept."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(promise or len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = self.close_connection or promise is not None


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


def point_at(monkeypatch, url: str, cache: Path, *, offline: bool = False):
    """Turn an already imported `huggingface_hub` to another hub, as its environment variables would at import."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)  # send no token of whoever runs the tests
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
