"""Serve gradio without telemetry and without the network, on an address that is free."""

import errno
import importlib
import logging
import os
import socket

from common.errors import UserError

NO_NETWORK = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
# The page may request from its own server only; gradio's frontend is assembled while it runs
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; form-action 'self'"
LARGEST_FILE = "100mb"


def import_gradio():
    """Import gradio.

    Raises:
        UserError: not installed; names the extra.
    """
    os.environ.update(NO_NETWORK)  # read when it is imported
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise UserError(f'demo: gradio is not usable ({error}); install it with pip install -e ".[demo]"') from error


def check_address(host: str, port: int, share: bool) -> None:
    """Check that a server can listen there.

    Raises:
        UserError: a wrong setting, or the address is taken, not permitted or of another machine.
    """
    if type(port) is not int or not 1 <= port <= 65535:
        raise UserError(f"port={port}: use 1 to 65535, e.g. 7860")
    if not isinstance(share, bool):
        raise UserError(f"share={share}: use true or false")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(str(host), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port={port}: taken on {host}; use another one, e.g. port={port % 65535 + 1}") from error
        if error.errno == errno.EACCES:
            raise UserError(f"port={port}: not permitted; use one from 1024 on, e.g. port=7860") from error
        raise UserError(
            f"host={host}: no address of this machine ({error.strerror}); use 127.0.0.1, or 0.0.0.0 for all of them"
        ) from error


class SameOriginOnly:
    """Add headers to every response (ASGI) by which the browser requests nothing from another server."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        async def with_policy(message) -> None:
            if message["type"] == "http.response.start":
                added = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        await self.app(scope, receive, with_policy)


def serve(page, *, host: str, port: int, share: bool) -> None:
    """Serve gradio's blocks until Ctrl-C; `page` has `blocks` and `css`."""
    from starlette.middleware import Middleware

    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio requests from its own server at the start
    fonts = ["system-ui", "sans-serif"]
    theme = import_gradio().themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"])
    _, local, public = page.blocks.launch(
        server_name=host, server_port=port, share=share, theme=theme, css=page.css, quiet=True, prevent_thread_lock=True,
        ssr_mode=False, footer_links=[], enable_monitoring=False, max_file_size=LARGEST_FILE,
        app_kwargs={"middleware": [Middleware(SameOriginOnly)]},
    )  # fmt: skip
    print(f"Demo: {local}", *([f"public: {public}"] if public else []), "(stop with Ctrl-C)", flush=True)
    page.blocks.block_thread()
