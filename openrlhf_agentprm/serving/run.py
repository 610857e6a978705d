"""Serving until a signal: no new request is taken, what is under way is finished, then the process ends with 0."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

import uvicorn

from .app import Service, build_app


def serve(service: Service, bound: socket.socket, on_ready: Callable[[str], None]) -> None:
    """Serve at this address alone until SIGTERM or SIGINT.

    Args:
        bound: to an address, not listening yet.
        on_ready: told the URL once connections are taken.
    """
    host, port = bound.getsockname()[:2]
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
        bound.listen(1024)
        on_ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        service.batcher.close(limit_s=service.limits.seconds)
        for number, handler in before.items():
            signal.signal(number, handler)
