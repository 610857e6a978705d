"""AgentGym's wire format over real HTTP, around the games of `agentgym_worlds`; also a command: agentgym_server.py NAME PORT."""

import argparse
import functools
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

if __package__ in (None, ""):  # run as a command
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent))
import agentgym_worlds as worlds


class Failed(Exception):
    """(status, body) that a request is answered with."""


class Family:
    """The sessions of one server and its manner of creating, telling errors and closing.

    Args:
        name: of the server.
        make: a world for a new session.
        id_key: of requests.
        task_key: of reset.
        errors: "key": 200 and the key `error`; "500": a text.
        closes: whether /close is there.
        finished: whether a step behind the end is an error.
        bare: create answers with the session alone.
        create_task: create wants a task.
        slots: sessions, behind which old ones are given again; none: 0.
    """

    def __init__(self, name, make, id_key="id", task_key="data_idx", **how):
        self.name, self.make, self.id_key, self.task_key = name, make, id_key, task_key
        self.errors, self.closes, self.finished = how.get("errors", "key"), how.get("closes", False), how.get("finished", True)
        self.bare, self.create_task, self.slots = how.get("bare", False), how.get("create_task", False), how.get("slots", 0)
        self.sessions, self.done, self.steps, self.created, self.delay = {}, {}, 0, 0, 0.0
        self.lock, self.busy = threading.Lock(), set()
        self.overlaps = 0  # steps of one session at one time

    def answer(self, method, path, body):
        if (method, path) == ("GET", "/"):
            return f"This is environment {self.name}."
        if (method, path) == ("POST", "/create"):
            return self._create(body)
        if method == "POST" and path in ("/reset", "/step", "/close")[: 3 if self.closes else 2]:
            needed = {"/reset": [self.id_key, self.task_key], "/step": [self.id_key, "action"], "/close": [self.id_key]}[path]
            if missing := [key for key in needed if not isinstance(body, dict) or key not in body]:
                raise Failed(422, {"detail": [{"type": "missing", "loc": ["body", key]} for key in missing]})
            return self._told(path, body)
        name = path[1:]
        if method == "GET" and name in ("observation", "available_actions"):
            return self._told(path, body)
        raise Failed(404, {"detail": "Not Found"})

    def _create(self, body):
        if self.create_task and (not isinstance(body, dict) or "id" not in body):
            raise Failed(422, {"detail": [{"type": "missing", "loc": ["body", "id"]}]})
        with self.lock:
            if self.slots and len(self.sessions) >= self.slots:
                return next(iter(self.sessions))
            number = random.randint(0, 48_950_076) if self.name in ("webshop", "sqlgym") else self.created
            self.created += 1
            self.sessions[number], self.done[number] = self.make(), False
        return number if self.bare else {self.id_key: number}

    def _told(self, path, body):
        try:
            return self._do(path, body)
        except Exception as error:
            if self.errors == "500" or (self.name == "sciworld" and path == "/close"):
                raise Failed(500, "Internal Server Error") from error
            return {"error": str(error)}

    def _do(self, path, body):
        number = body[self.id_key]
        if number not in self.sessions:
            raise NameError(f"The id {number} is not valid.")
        world = self.sessions[number]
        if path == "/close":
            del self.sessions[number]
            return {"closed": "closed"} if self.name == "webarena" else True
        if path == "/reset":
            if body[self.task_key] > 10_000_000:
                raise IndexError("list index out of range")
            told = world.begin(body[self.task_key])
            self.done[number] = False
            return told
        if path != "/step":
            return getattr(world, path[1:])()
        if self.done[number] and self.finished:
            raise NameError(f"The task with environment {number} has finished.")
        self.overlaps += number in self.busy
        self.busy.add(number)
        time.sleep(self.delay)
        told = world.act(body["action"])
        self.busy.discard(number)
        self.steps += 1
        self.done[number] = bool(told.get("done", told.get("terminated")))
        return told


def families(folder=None, late=False):
    """A server for each name."""
    slow = dict(id_key="env_idx", errors="500", bare=True)
    made = {
        "textcraft": dict(make=functools.partial(worlds.TextCraft, folder), closes=True, finished=False),
        "babyai": dict(make=functools.partial(worlds.BabyAI, late), closes=True),
        "sciworld": dict(make=worlds.Science, closes=True),
        "alfworld": dict(make=worlds.Household, task_key="game"),
        "maze": dict(make=worlds.Maze, task_key="game"),
        "wordle": dict(make=worlds.Wordle, task_key="seed"),
        "webshop": dict(make=worlds.Shop, task_key="session_id", finished=False, **slow),
        "sqlgym": dict(make=worlds.Sql, task_key="item_id", slots=8, **slow),
        "searchqa": dict(make=worlds.Search, task_key="id", create_task=True, closes=True, finished=False, **slow),
        "todo": dict(make=worlds.Todo, task_key="id", create_task=True, finished=False, **slow),
        "webarena": dict(make=worlds.Browser, id_key="env_idx", task_key="idx", errors="500", closes=True, finished=False),
    }
    return {name: (lambda name=name, fields=fields: Family(name, **fields)) for name, fields in made.items()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = urlsplit(self.path)
        self._serve("GET", parts.path, {key: int(value[0]) for key, value in parse_qs(parts.query).items()})

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._serve("POST", urlsplit(self.path).path, json.loads(raw) if raw else None)

    def _serve(self, method, path, body):
        family, status = self.server.family, 200
        if family.name in ("maze", "wordle") and path != "/":
            path = path.removeprefix(f"/{family.name}")
        try:
            told = family.answer(method, path, body)
        except Failed as failed:
            status, told = failed.args
        text = told.encode() if status == 500 else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if status == 500 else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Many(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def start(family, port=0):
    """A running server; `.url` says where."""
    server = Many(("127.0.0.1", port), Handler)
    server.family = family
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    running = start(families()[args.name](), args.port)
    print(running.url, flush=True)
    threading.Event().wait()
