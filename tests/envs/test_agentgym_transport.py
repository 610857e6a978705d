"""What stands at the other end of a socket: half an answer, none, one without end. Each is the one error, and nothing is repeated."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
import time

import pytest
from agentgym_server import families
from launching import free_port
from raw_server import RawServer, ok

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.envs.agentgym.env import make
from openrlhf_agentprm.envs.agentgym.http import MAX_ANSWER, LateError, Server, ServerError, server_of
from openrlhf_agentprm.envs.agentgym.notes import Notes

STEP = b'{"observation": "a", "reward": 0, "done": false}'
pytestmark = pytest.mark.usefixtures("notes")


def drip(request, connection):
    """A byte, and another, and so on."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)


def flood(start, part):
    def reply(request, connection):
        connection.sendall(start)
        for _ in range(4 * MAX_ANSWER // len(part)):
            connection.sendall(part)

    return reply


CASES = {
    "nothing": (lambda r, c: None, "RemoteDisconnected"),
    "not HTTP": (lambda r, c: b"SSH-2.0-OpenSSH_9.2\r\n", "BadStatusLine"),
    "half a body": (lambda r, c: b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n" + STEP, "IncompleteRead"),
    "half a number": (lambda r, c: b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n12", "IncompleteRead"),
    "no length": (lambda r, c: b"HTTP/1.1 200 OK\r\n\r\n" + STEP, "does not tell its length"),
    "half a chunk": (lambda r, c: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + STEP[:20], "IncompleteRead"),
    "a chunk of −1": (flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", b" " * 65536), "more than 8388608 bytes"),
    "chunks without end": (
        flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"), "more than 8388608 bytes",
    ),
    "a large length": (lambda r, c: b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n" + STEP, "bytes; at most 8388608"),
    "a negative length": (lambda r, c: b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + STEP, "does not tell its length"),
    "headers without end": (flood(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 1000), "HTTPException|LineTooLong"),
    "a long line": (flood(b"HTTP/1.1 200 OK\r\na: ", b"b" * 65536), "LineTooLong"),
    "continue without end": (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "more than 8388608 bytes"),
    "an error page": (lambda r, c: b"HTTP/1.1 503 Busy\r\nContent-Length: 2000\r\n\r\n" + b"busy " * 400, r"HTTP 503: (busy )+bu?\.\.\."),
    "Infinity": (lambda r, c: ok(b'{"observation": "a", "reward": Infinity, "done": false}'), "Infinity is no number"),
    "twice": (lambda r, c: ok(b'{"observation": "a", "reward": 0, "reward": 1, "done": false}'), "a key comes twice"),
    "UTF-16": (lambda r, c: ok(STEP.decode().encode("utf-16")), "no JSON"),
    "deep": (lambda r, c: ok(b"[" * 100_000), "no JSON"),
    "empty": (lambda r, c: ok(b""), "no JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_answer(case):
    reply, told = CASES[case]
    with RawServer(reply) as server, pytest.raises(ServerError, match=told) as error:
        Server(server.url).ask("POST", "/step", {"id": 0, "action": "a"}, 60.0)
    assert len(server.requests) == 1 and len(str(error.value)) < 500 and f"POST {server.url}/step" in str(error.value)


def test_an_answer_that_drips_meets_the_limit():
    with RawServer(drip) as server, pytest.raises(LateError, match="no whole answer within 0.5 s"):
        Server(server.url).ask("GET", "/", None, 0.5)


def test_a_whole_answer_in_one_piece_in_chunks_and_with_more_behind_it():
    answers = [
        ok(STEP),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n"
        + STEP[:16]
        + b"\r\n%x\r\n" % len(STEP[16:])
        + STEP[16:]
        + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + ok(STEP),
        ok(b'"' + b"x" * (MAX_ANSWER - 2) + b'"'),
    ]
    for answer in answers:
        with RawServer(lambda r, c, answer=answer: answer) as server:
            found = Server(server.url).ask("GET", "/", None, 60.0)
        assert found in (json.loads(STEP), "x" * (MAX_ANSWER - 2))


def test_a_step_that_dies_half_way_is_not_sent_again():
    """It may have acted. The episode is broken, its session is not used again, and the next reset opens one."""
    dying = [True]

    def reply(request, connection):
        path = request.split(b" ")[1]
        if path == b"/step":
            return None if dying[0] else ok(STEP)
        return ok({b"/create": b'{"id": %d}' % len(server.requests)}.get(path, b'{"observation": "first"}'))

    with RawServer(reply) as server:
        env = make(server.url, {"name": "x", "tasks": 10})
        env.reset()
        with pytest.raises(ServerError, match="RemoteDisconnected"):
            env.step("push")
        with pytest.raises(RuntimeError, match="call reset"):
            env.step("push")
        assert sum(b"/step" in r for r in server.requests) == 1
        dying[0] = False
        env.reset()
        assert env.step("push")[0] == "a"
        used = [json.loads(r.partition(b"\r\n\r\n")[2])["id"] for r in server.requests if b"/reset" in r]
        assert len(used) == 2 and used[0] != used[1]


def test_a_restart_while_a_step_is_under_way():
    """The answer may be of another's game, and is not taken."""

    def reply(request, connection):
        if b"/step" in request:
            Notes(server.url).given(0, once=True)  # another instance was given the number that this one plays on
            return ok(STEP)
        return ok(b'{"id": 0}' if b"/create" in request else b'{"observation": "first"}')

    with RawServer(reply) as server:
        env = make(server.url, {"name": "x", "tasks": 10})
        env.reset()
        with pytest.raises(ServerError, match="the server was started again"):
            env.step("push")


def test_an_address_with_a_path():
    with RawServer(lambda r, c: ok(b"1")) as server:
        server_of(f"{server.url}/envs/1/").ask("GET", "/observation?id=3", None, 30.0)
    assert server.requests[0].startswith(b"GET /envs/1/observation?id=3 HTTP/1.1\r\n")


def test_a_step_that_is_interrupted_breaks_its_episode_too():
    """As by Ctrl-C, or by the alarm of a time limit: the server may be at it still."""

    def interrupt(*_):
        raise AssertionError("took too long")

    def reply(request, connection):
        if b"/step" in request:
            os.kill(os.getpid(), signal.SIGALRM)
            return drip(request, connection)
        return ok(b'{"id": %d}' % len(server.requests) if b"/create" in request else b'{"observation": "first"}')

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with RawServer(reply) as server:
            env = make(server.url, {"name": "x", "tasks": 10})
            env.reset()
            with pytest.raises(AssertionError, match="took too long"):
                env.step("push")
            with pytest.raises(RuntimeError, match="call reset"):
                env.step("push")
            assert not env._session.is_open()
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary Redirect", b"308 Permanent Redirect"])
def test_nothing_but_the_address_is_asked(status):
    with RawServer(lambda r, c: ok(STEP)) as other:
        with RawServer(lambda r, c: b"HTTP/1.1 %s\r\nLocation: %s/\r\nContent-Length: 0\r\n\r\n" % (status, other.url.encode())) as server:
            with pytest.raises(ServerError, match="leads elsewhere, and only the address given is asked"):
                Server(server.url).ask("GET", "/", None, 30.0)
        assert not other.requests


def test_a_proxy_is_used_if_it_is_asked_for(monkeypatch):
    with RawServer(lambda r, c: ok(b'"proxy"')) as proxy, RawServer(lambda r, c: ok(b'"server"')) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert server_of(server.url).ask("GET", "/", None, 30.0) == "server" and not proxy.requests
        assert server_of(server.url, "environment").ask("GET", "/a", None, 30.0) == "proxy"
        assert server_of("http://no.such.host:5/b", proxy.url).ask("GET", "/a", None, 30.0) == "proxy"
        assert [r.split(b"\r\n")[0] for r in proxy.requests] == [
            f"GET {server.url}/a HTTP/1.1".encode(), b"GET http://no.such.host:5/b/a HTTP/1.1",
        ]  # fmt: skip


def test_a_server_that_hangs_at_a_reset_is_waited_for_once():
    def reply(request, connection):
        if b"/create" in request:
            return ok(b'{"id": 3}')
        return ok(b'{"observation": "a"}') if len(server.requests) < 4 else drip(request, connection)

    with RawServer(reply) as server:
        env = make(server.url, {"name": "x", "tasks": 10, "reset_s": 0.5})
        env.reset()
        with pytest.raises(LateError):
            env.reset()
    assert sum(b"/create" in r for r in server.requests) == 1 and sum(b"/reset" in r for r in server.requests) == 2


def test_what_a_user_gives_is_no_way_to_other_files():
    for url in ("ftp://127.0.0.1", "unix:///tmp/x", "http://", "http://a b", "http://127.0.0.1\r\nX: y", "//127.0.0.1", "http://\u212a.x"):
        with pytest.raises(UserError):
            server_of(url)


def test_https_with_a_certificate_that_is_known_and_one_that_is_not(tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate, and is not there")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    made = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 2 -subj /CN=localhost"
    subprocess.run([*made.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with RawServer(lambda r, c: ok(STEP), context) as server:
        url = server.url.replace("http:", "https:")
        with pytest.raises(ServerError, match="CERTIFICATE_VERIFY_FAILED"):
            Server(url).ask("GET", "/", None, 30.0)
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        assert Server(url).ask("POST", "/step", {"id": 0}, 30.0) == json.loads(STEP)


def test_episodes_over_the_servers_that_agentgym_runs_on():
    """FastAPI under uvicorn: its framing, its 422, and its closing of a connection behind five idle seconds, which nobody waits for."""
    fastapi = pytest.importorskip("fastapi", reason="pip install fastapi")
    uvicorn = pytest.importorskip("uvicorn", reason="pip install uvicorn")
    family, app = families()["maze"](), fastapi.FastAPI()

    @app.get("/")
    def hello():
        return family.answer("GET", "/", None)

    @app.post("/maze/create")
    async def create():
        return family.answer("POST", "/create", None)

    @app.post("/maze/reset")
    def reset(id: int = fastapi.Body(), game: int = fastapi.Body()):
        return family.answer("POST", "/reset", {"id": id, "game": game})

    @app.post("/maze/step")
    def step(id: int = fastapi.Body(), action: str = fastapi.Body()):
        return family.answer("POST", "/step", {"id": id, "action": action})

    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.config.port}"
    env = make(url, "maze")
    env.reset(options={"task_id": "maze_1"})
    assert env.step("move left")[0].startswith("The goal is at") and env.step("dance \U0001f600 \x00")[4]["valid_action"] is False
    with pytest.raises(ServerError, match="HTTP 422: .*Field required"):
        make(url, {"base": "maze", "reset": {"seed": "{task}"}}).reset()
    with pytest.raises(ServerError, match='HTTP 404: {"detail":"Not Found"}'):
        make(url, "wordle").reset()
    server.should_exit = True
    thread.join(30)
