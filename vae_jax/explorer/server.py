"""The server of the page: what it lets users send, and how it begins and ends."""

import contextlib
import importlib
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from vae_jax.errors import UserError
from vae_jax.explorer.page import build, gradio
from vae_jax.explorer.source import Source

# A browser is told to ask no other address for anything.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "connect-src 'self' data: blob:; frame-ancestors 'self'"
)
STYLE = Path(__file__).with_name("page.css")
# Bytes of a picture that is sent.
LARGEST_FILE = "64mb"
# Requests of each kind that are served at once, but for steps of sliders.
AT_ONCE = 2


def check(host: str, port: int) -> None:
    """Raises UserError where there is no gradio, or the address cannot be served."""
    gradio()
    try:
        address, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with contextlib.closing(socket.socket(*address[:2])) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
    # A name that cannot be one is no error of the system.
    except (OSError, UnicodeError) as error:
        raise _not_served(host, port, error) from error


def _not_served(host: str, port: int, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"--host is {host!r} and --port is {port}, where no page can be served: "
        f"{reason}; another --port may be free"
    )


class _Policy:
    """What tells browsers of `POLICY`, around the server's answers (ASGI)."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on, and its answer back with one header more."""

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY.encode())
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await self.app(scope, receive, sending)


def serve(source: Source, host: str, port: int) -> None:
    """Serves the page of a model until it is interrupted, or asked to end.

    Args:
      source: the model.
      host: the address; 127.0.0.1 for this machine alone.
      port: its port.

    Raises:
      UserError: another program has taken the port meanwhile.
      KeyboardInterrupt: the server was interrupted or asked to end.
    """
    gr = gradio()
    middleware = importlib.import_module("starlette.middleware").Middleware
    blocks = build(source)
    # Gradio imports pyplot at the first step of a slider, which takes half a second.
    importlib.import_module("matplotlib.pyplot")
    blocks.queue(default_concurrency_limit=AT_ONCE)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace"]}
    try:
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            show_error=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            max_file_size=LARGEST_FILE,
            app_kwargs={"middleware": [middleware(_Policy)]},
            theme=gr.themes.Base(**fonts),
            css_paths=STYLE,
        )
    except OSError as error:
        raise _not_served(host, port, error) from error
    try:
        print(f"{source.title}: {address} (Ctrl-C ends it)", flush=True)
        _wait()
    finally:
        # Deletes what users have sent.
        blocks.close(verbose=False)


def _wait() -> None:
    """Never returns; a signal that ends a process raises KeyboardInterrupt."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    threading.Event().wait()
