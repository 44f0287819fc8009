"""A real HTTP server on this machine that serves a folder as the hub serves a data set's repository."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from endpoint import running

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Has one repository, `name`, in one state; `asked` holds the paths of all requests."""

    def __init__(self, name: str, folder: Path) -> None:
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.asked.append(path)
                resolve, api = f"/datasets/{name}/resolve/", f"/api/datasets/{name}"
                file = folder / path.removeprefix(resolve).partition("/")[2]
                if path.startswith(f"{api}/tree/"):
                    self.reply(_tree(folder, path.removeprefix(f"{api}/tree/").partition("/")[2]))
                elif path.startswith(api):
                    self.reply({"id": name, "sha": COMMIT, "siblings": [], "tags": []})
                elif path.startswith(resolve) and file.is_file():
                    self.reply(file.read_bytes(), ETag=f'"{_hash(file)}"')
                else:
                    self.reply({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound"})

            do_HEAD = do_GET

            def do_POST(self) -> None:
                paths = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
                hub.asked.append(self.path)
                self.reply([_entry(folder, folder / path) for path in paths if (folder / path).exists()])

            def reply(self, content: object, status: int = 200, **headers: str) -> None:
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                raw, status, headers = self.part(raw, status, headers)
                self.send_response(status)
                for key, value in {"X-Repo-Commit": COMMIT, **headers}.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(raw)

            def part(self, raw: bytes, status: int, headers: dict[str, str]) -> tuple[bytes, int, dict[str, str]]:
                """The bytes that `Range` asks for, as a stream of a file does."""
                wanted = self.headers.get("Range", "").removeprefix("bytes=")
                if status != 200 or not wanted:
                    return raw, status, headers
                first, _, last = wanted.partition("-")
                start = int(first) if first else len(raw) - int(last)
                stop = min(int(last) + 1 if first and last else len(raw), len(raw))
                return raw[start:stop], 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(raw)}"}

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextlib.contextmanager
    def serving(self) -> Generator[Hub]:
        with running(self.server):
            yield self


def _tree(folder: Path, inside: str) -> list[dict[str, Any]]:
    return [_entry(folder, path) for path in sorted((folder / inside).glob("*"))]


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    place = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": place, "oid": "0" * 40}
    return {"type": "file", "path": place, "oid": _hash(path), "size": path.stat().st_size}


def _hash(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
