"""A hub on this machine that serves one repository at one commit, with the few requests a download makes."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "tester/tiny"


def _handler(folder: Path, requests: list[str]) -> type[BaseHTTPRequestHandler]:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._respond(with_body=True)

        def do_HEAD(self) -> None:
            self._respond(with_body=False)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the server's own name
            """Say nothing."""

        def _respond(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            requests.append(path)
            name = path.rpartition("/")[2]
            if path.startswith(f"/api/models/{REPO}/tree/"):
                rows = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324 - git's own
                    for name, data in files.items()
                ]
                self._send(200, json.dumps(rows).encode(), with_body=with_body)
            elif path.startswith(f"/api/models/{REPO}"):
                siblings = [{"rfilename": name} for name in files]
                body = json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode()
                self._send(200, body, with_body=with_body)
            elif path.startswith(f"/{REPO}/resolve/") and name in files:
                self._send(200, files[name], with_body=with_body)
            else:
                self._send(404, b"{}", with_body=with_body)

        def _send(self, status: int, body: bytes, *, with_body: bool) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')  # noqa: S324 - an ETag
            self.send_header("X-Repo-Commit", COMMIT)
            if status != 200:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    return Handler


@contextmanager
def fake_hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a model folder; yield the endpoint and the list that paths of requests are added to."""
    requests: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder, requests)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()
