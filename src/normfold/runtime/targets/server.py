"""What the page of the browser target is served from: its scripts, ONNX Runtime's, and the worker's folder.

On the loopback interface alone, under a path that nobody can guess; with the headers that a page needs for threads.
"""

from __future__ import annotations

import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote

from normfold.runtime.workers.store import FULL

SCRIPTS: Final = Path(__file__).resolve().parent / "javascript"
TYPES: Final = {".html": "text/html", ".mjs": "text/javascript", ".wasm": "application/wasm"}
ISOLATED: Final = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""A page has threads that share memory only where it says that nothing of another origin gets in."""


class PageServer:
    """Serves for as long as the process lives."""

    def __init__(self, runtime: Path, folder: Path) -> None:
        """``runtime``: the folder with ONNX Runtime's scripts; ``folder``: the worker's files."""
        self.served: dict[str, int] = {}
        """Bytes of ONNX Runtime's files that were asked for, by name."""
        token = secrets.token_urlsafe(16)
        roots = {"": SCRIPTS, "ort": runtime, "files": folder}
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(f"/{token}/", roots, self.served))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}/{token}/page.html"


def _handler(prefix: str, roots: dict[str, Path], served: dict[str, int]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """A file of one of the roots."""
            found = _file(self.path, prefix, roots)
            if found is None or not found[1].is_file():
                self._reply(404)
                return
            root, file = found
            data = file.read_bytes()
            if root == "ort":
                served[file.name] = len(data)
            self._reply(200, data, TYPES.get(file.suffix, "application/octet-stream"))

        def do_PUT(self) -> None:
            """A new file in the worker's folder."""
            found = _file(self.path, prefix, roots)
            if found is None or found[0] != "files":
                self._reply(404)
                return
            data = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                found[1].parent.mkdir(parents=True, exist_ok=True)
                found[1].write_bytes(data)
            except OSError as error:
                self._reply(507 if error.errno in FULL else 500)
                return
            self._reply(200)

        def log_message(self, *_: Any) -> None:
            """Standard error is for what ends the process."""

        def _reply(self, status: int, data: bytes = b"", kind: str = "text/plain") -> None:
            self.send_response(status)
            for name, value in {**ISOLATED, "Content-Type": kind, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _file(path: str, prefix: str, roots: dict[str, Path]) -> tuple[str, Path] | None:
    """The root and the file that ``path`` names; None where it names none."""
    if not path.startswith(prefix):
        return None
    name = PurePosixPath(unquote(path[len(prefix) :]))
    if name.is_absolute() or ".." in name.parts or not name.parts:
        return None
    root = name.parts[0] if len(name.parts) > 1 else ""
    if root not in roots:
        return None
    return root, roots[root].joinpath(*name.parts[1:] if root else name.parts)
