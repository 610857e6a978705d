"""Serving until a signal: no new request is taken, what is under way is finished, then the process ends with 0."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

import uvicorn

from .app import Service, build_app


def serve(service: Service, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve at this address alone until SIGTERM or SIGINT.

    Args:
        port: 0 takes a free one.
        on_ready: told the URL once connections are taken.

    Raises:
        OSError: the address is in use or is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listening:
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        config = uvicorn.Config(
            build_app(service),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=int(service.limits.seconds) + 1,
            server_header=False,
        )
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
        try:  # the server's own handlers stand while it runs; it raises the signal again afterwards, for these to take
            on_ready(f"http://{shown}:{listening.getsockname()[1]}")
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            service.batcher.close()
            for number, handler in before.items():
                signal.signal(number, handler)
