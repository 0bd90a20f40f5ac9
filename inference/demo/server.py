"""Serve the files of a web folder with the standard library, to this machine only unless `host` says otherwise."""

import contextlib
import errno
import ipaddress
import shutil
import socket
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from common.errors import UserError

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
}
HEADERS = {
    "Cache-Control": "no-cache",  # the next page on this port may be of another network
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest is in the page
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
TIMEOUT_S = 30  # of a connection on which nothing arrives


def check_address(host: str, port: int) -> None:
    """Raise UserError if no server can listen there: the address is malformed, taken, not permitted or another machine's."""
    if type(port) is not int or not 1 <= port <= 65535:
        raise UserError(f"port={port}: use 1 to 65535, e.g. 7860")
    with _address_errors(host, port):
        family, kind, protocol, _, address = socket.getaddrinfo(str(host), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)


@contextlib.contextmanager
def _address_errors(host: str, port: int):
    try:
        yield
    except UnicodeError as error:  # of a name with an empty or too long part, such as 127.0..1
        raise UserError(f"host={host}: not an address; use 127.0.0.1, or 0.0.0.0 for all addresses") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port={port}: already in use on {host}; use another one, e.g. port={port % 65535 + 1}"
            ) from error
        if error.errno == errno.EACCES:
            raise UserError(f"port={port}: not permitted; use 1024 or higher, e.g. port=7860") from error
        raise UserError(
            f"host={host}: not an address of this machine ({error.strerror}); use 127.0.0.1, or 0.0.0.0 for all addresses"
        ) from error


def is_address(host: str | None) -> bool:
    """Return whether a request's Host is an address or localhost: a name could be another site's that resolves to here."""
    with contextlib.suppress(ValueError):
        name = urlsplit(f"//{host or ''}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    return False


class Handler(BaseHTTPRequestHandler):
    """Answer GET and HEAD for the files of the server's folder."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "justenough", ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        if not is_address(self.headers.get("Host")):
            port = self.server.server_port
            self._refuse(HTTPStatus.FORBIDDEN, f"open this page by its address, such as http://127.0.0.1:{port}/")
        elif (file := self._open()) is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such file")
        else:
            with file:
                kind = TYPES.get(Path(file.name).suffix, "application/octet-stream")
                self._start(HTTPStatus.OK, kind, file.seek(0, 2))
                file.seek(0)
                if self.command == "GET":
                    shutil.copyfileobj(file, self.wfile)

    do_HEAD = do_GET  # noqa: N815

    def _open(self) -> BinaryIO | None:
        """Open the requested file; None: the URL is malformed, there is no such file, or it was removed since."""
        with contextlib.suppress(ValueError, OSError):
            name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
            return (self.server.folder / name).open("rb") if name in self.server.names else None
        return None

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        content = f"{reason}\n".encode()
        self._start(status, "text/plain; charset=utf-8", len(content))
        if self.command == "GET":
            self.wfile.write(content)

    def _start(self, status: HTTPStatus, kind: str, length: int) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()

    def handle(self) -> None:
        """Answer the requests of a connection; a connection that the browser cuts is not an error."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def log_message(self, *arguments) -> None:
        """Keep the screen for what concerns the user."""


class WebServer(ThreadingHTTPServer):
    """Serve the named files of a folder, and nothing else."""

    def __init__(self, folder: Path, names: Sequence[str], host: str, port: int):
        self.folder, self.names = folder, frozenset(names)
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """Bind without asking for this machine's name, for which http.server may wait seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]


def serve(folder: Path, names: Sequence[str], host: str, port: int) -> None:
    """Serve the files until Ctrl-C; raise UserError if the address was taken since it was checked."""
    with _address_errors(host, port):
        server = WebServer(folder, names, str(host), port)
    shown = f"[{host}]" if ":" in str(host) else host
    with server:
        print(f"Demo: http://{shown}:{port}/ (stop with Ctrl-C)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
