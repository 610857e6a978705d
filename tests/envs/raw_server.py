"""A socket that answers a request with any bytes whatever."""

import contextlib
import re
import socket
import threading


class RawServer:
    """Answers every connection by `reply(request) -> bytes`, or by what `reply` does with (request, socket); keeps the requests.

    Args:
        reply: see above; None of it: the connection is closed.
        context: for TLS; none: None.
    """

    def __init__(self, reply, context=None):
        self.reply, self.requests, self.context = reply, [], context
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection = self.context.wrap_socket(connection, server_side=True) if self.context else connection
                request = read_request(connection)
                self.requests.append(request)
                if answer := self.reply(request, connection):
                    connection.sendall(answer)
                connection.close()


def read_request(connection):
    """The bytes of one request."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(65536) or b"\r\n\r\n"
    head, _, body = got.partition(b"\r\n\r\n")
    length = int((re.search(rb"(?i)content-length: (\d+)", head) or [b"", b"0"])[1])
    while len(body) < length and (more := connection.recv(65536)):
        body += more
    return head + b"\r\n\r\n" + body


def ok(body, head=b""):
    """An answer of 200 with its length."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), head, body)
