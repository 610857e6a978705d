"""Servers on this machine for tests: ours in a thread or a process, and one that misbehaves as it is told."""

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request


def post(url, payload, raw=None):
    """(status, answer)."""
    request = urllib.request.Request(url, raw if raw is not None else json.dumps(payload).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def get(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


@contextlib.contextmanager
def serving(*arguments, command=None):
    """`agentprm serve` in a process of its own; gives its URL and the process."""
    line = command or [sys.executable, "-m", "openrlhf_agentprm.cli.main", "serve", *map(str, arguments), "--serve.port", "0"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    errors = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True)
    reader.start()
    try:
        line = next((line for line in process.stdout if line.startswith("serving ")), None)
        assert line is not None, "".join(errors)[-3000:]
        yield line.split()[-1], process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)  # as Ctrl-C
            assert process.wait(60) == 0, "".join(errors)[-3000:]


@contextlib.contextmanager
def in_thread(service):
    """A `Service` behind uvicorn in a thread of this process; gives its URL."""
    import socket

    import uvicorn

    from openrlhf_agentprm.serving.app import build_app

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build_app(service), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        service.batcher.close()
        listening.close()


@contextlib.contextmanager
def behaving(*answers):
    """A server that answers its n-th POST with the n-th function of (handler, payload), the last one ever after; gives URL and payloads."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(payload)
            with contextlib.suppress(OSError):
                answers[min(len(seen), len(answers)) - 1](self, payload)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def answering(status, make, **headers):
    """An answer for `behaving`: bytes, or what is made of the payload."""

    def answer(handler, payload):
        body = make if isinstance(make, bytes) else json.dumps(make(payload)).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer
