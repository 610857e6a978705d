"""Malformed answers by the thousand: each is the one error, or it is a row whose every part is what the answer says and of the right type.

The judge of what is right is written here a second time, from the rules and not from the reader.
"""

import json
import math
import random
from collections import Counter

import pytest
from raw_server import RawServer, ok

from openrlhf_agentprm.envs.agentgym.env import make
from openrlhf_agentprm.envs.agentgym.http import Server, ServerError, parse
from openrlhf_agentprm.envs.agentgym.profiles import PROFILES
from openrlhf_agentprm.envs.agentgym.reading import read_first, read_session, read_shop, read_step, read_text

SEEDS = 16_000
ODD = [
    *("null", "true", "false", "0", "1", "-1", "0.5", "-0.0", "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e308", "1e9", "1.1e9"),
    *(
        "9" * 400,
        "9" * 5000,
        "-" + "9" * 30,
        "0.1e-400",
        '"0"',
        '"1.0"',
        '"true"',
        '"NaN"',
        '""',
        '" "',
        '"\\u0000"',
        '"\\ud83d"',
        '"a\\udc00b"',
    ),
    *(
        '"\\ud83d\\ude00"',
        '"Available actions: []"',
        '"x\\nAvailable actions: [\\"a\\", \\"b\\"]"',
        '"The task is completed."',
        "[]",
        "{}",
        '["a"]',
    ),
    *(
        "[null]",
        "[[]]",
        '["a", 1]',
        '["\\ud83d"]',
        '{"error": ""}',
        '{"text": "a"}',
        '{"": ""}',
        "[" * 50 + "]" * 50,
        "01",
        "+1",
        ".5",
        "1.",
    ),
    *("0x10", "'a'", "undefined", "True", '"\t"', '"\\x"', '"' + "a" * 1_000_001 + '"'),
]
WEIGHTS = [1.0 if len(text) < 10_000 else 0.02 for text in ODD]
KEYS = [
    *("observation", "reward", "done", "score", "state", "info", "id", "env_idx", "available_actions", "terminated", "truncated", "error"),
    *("detail", "has_search_bar", "clickables", "task_description", ""),
]
WELL = [
    {"observation": "a", "reward": 0.5, "done": False},
    {"observation": "a", "reward": 1, "score": 1.5, "done": True},
    {"observation": "a", "reward": 0.0, "available_actions": ["go", "look"], "done": False},
    {"state": "a", "reward": 0.0, "done": False, "info": None},
    {"observation": "a", "reward": 0, "terminated": True, "truncated": False, "info": {"x": [1]}},
    {"id": 1, "observation": "a", "done": False, "reward": 0},
    {"task_description": "t", "observation": "o", "score": 0, "reward": 0, "done": False},
    {"observation": "a", "available_actions": ["x"], "task_type": "t"},
    {"has_search_bar": True, "clickables": ["search"]},
    *({"id": 3}, {"env_idx": 4}, {"error": "no"}, 5, "a text", ["a", None]),
]


def malformed(seed):
    """The bytes of an answer: a right one with one to three parts made odd, cut, or strewn with bytes; or only odd parts."""
    rng = random.Random(seed)
    odd = lambda: rng.choices(ODD, WEIGHTS)[0]  # noqa: E731
    start = rng.choice(WELL)
    if isinstance(start, dict):
        parts = {key: json.dumps(value) for key, value in start.items()}
        for _ in range(rng.randint(1, 3)):
            what = rng.random()
            key = rng.choice([*parts, *KEYS] if what < 0.3 else list(parts) or KEYS)
            if what < 0.8:
                parts[key] = odd()
            else:
                parts.pop(key, None)
        pairs = [f"{json.dumps(key)}: {value}" for key, value in parts.items()]
        if rng.random() < 0.05 and pairs:
            pairs.append(rng.choice(pairs))
        text = "{" + ", ".join(pairs) + "}"
    else:
        text = rng.choice([odd(), f"[{odd()}, {odd()}]", json.dumps(start), f"[{odd()}]"])
    raw = text.encode(errors="surrogatepass")
    damage = rng.random()
    if damage < 0.1:
        raw = raw[: rng.randrange(len(raw) + 1)]
    elif damage < 0.2 and raw:
        place = rng.randrange(len(raw))
        raw = raw[:place] + bytes([rng.randrange(256)]) + raw[place + 1 :]
    elif damage < 0.23:
        raw = rng.choice([b"\xef\xbb\xbf", b"<html>", b"\x00", b")]}'\n"]) + raw
    elif damage < 0.25:
        raw = raw + rng.choice([b"x", b"{}", b"\n\n", b"\x00"])
    elif damage < 0.26:
        raw = b"[" * 5000 + raw + b"]" * 5000
    return raw


# --- the judge ---


def is_text(value):
    return type(value) is str and len(value) <= 1_000_000 and not any(0xD800 <= ord(c) < 0xE000 for c in value[:100])


def is_number(value):
    return type(value) in (int, float) and not (type(value) is float and not math.isfinite(value)) and abs(value) <= 1e9


def at(answer, place):
    if place == "":
        return answer
    if isinstance(place, int):
        return answer[place] if type(answer) is list and len(answer) > place else None
    return answer.get(place) if type(answer) is dict else None


def are_texts(value):
    return type(value) is list and all(map(is_text, value))


def is_step(p, answer):
    right = is_text(at(answer, p.observation)) and is_number(at(answer, p.reward)) and type(at(answer, p.done)) is bool
    right = right and (p.score == "" or is_number(at(answer, p.score))) and (p.truncated == "" or type(at(answer, p.truncated)) is bool)
    return right and (p.actions != "reply" or are_texts(at(answer, "available_actions")))


def is_first(p, answer):
    if type(answer) is dict and any(flag in answer and answer[flag] is not False for flag in (p.done, p.truncated)):
        return False
    texts = [at(answer, place) for place in p.first]
    right = all(map(is_text, texts)) and len("\n".join(texts)) <= 1_000_000 and not any(texts[0].startswith(b) for b in p.broken)
    return right and (p.actions != "reply" or are_texts(at(answer, "available_actions")))


def is_session(value):
    return (type(value) is int and 0 <= value < 2**63) or (is_text(value) and 0 < len(value) <= 200)


def is_shop(answer):
    return type(at(answer, "has_search_bar")) is bool and are_texts(at(answer, "clickables"))


def strictly(raw):
    """(whether it is JSON, the value), by other means than the reader's."""

    class Twice(Exception):
        pass

    def pairs(found):
        if len({key for key, _ in found}) < len(found):
            raise Twice
        return dict(found)

    try:
        text = str(raw, "utf-8", "strict")
        value = json.JSONDecoder(object_pairs_hook=pairs, parse_constant=lambda word: 1 / 0).decode(text)
        return True, value
    except (ValueError, RecursionError, Twice, ZeroDivisionError):
        return False, None


def outcome(call, *arguments):
    """What a call gives, in a list, or None where it is the one error; anything else that it raises is a failure of the test."""
    try:
        return [call(*arguments)]
    except ServerError as error:
        str(error).encode()
        assert len(str(error)) < 1000
        return None


def check_one(p, answer, seen):
    """What the reader makes of an answer, against the judge."""
    failed = type(answer) is dict and "error" in answer
    readers = {
        "step": (read_step, is_step(p, answer)),
        "first": (read_first, is_first(p, answer)),
        "session": (read_session, is_session(at(answer, p.id_at))),
    }
    for what, (read, right) in readers.items():
        found = outcome(read, p, answer)
        assert (found is not None) is (right and not failed), (p.name, what, repr(answer)[:300])
        seen[what] += found is not None
        seen["refused"] += found is None
        if found and what == "step":
            step = found[0]
            assert (step.text, step.reward, step.done) == (at(answer, p.observation), at(answer, p.reward), at(answer, p.done))
            assert type(step.reward) is float and step.score == (at(answer, p.score) if p.score else None)
    for what, read, right in (
        ("text", lambda: read_text(answer, "it"), is_text(answer)),
        ("shop", lambda: read_shop(answer), is_shop(answer)),
    ):
        found = outcome(read)
        assert (found is not None) is (right and not failed), (what, repr(answer)[:300])
        seen[what] += found is not None


def test_of_thousands_of_malformed_answers_none_is_taken_for_what_it_is_not():
    seen = Counter()
    for seed in range(SEEDS):
        raw = malformed(seed)
        good, value = strictly(raw)
        parsed = outcome(parse, raw)
        assert (parsed is not None) is good, raw[:200]
        seen["no JSON"] += not good
        if parsed is not None:
            assert repr(parsed[0]) == repr(value)
            for name in random.Random(seed).sample(sorted(PROFILES), 4):
                check_one(PROFILES[name], parsed[0], seen)
    assert min(seen[what] for what in ("no JSON", "step", "first", "session", "shop", "text")) > 100 and seen["refused"] > 50_000, seen


STATUSES = [b"500", b"204", b"999", b"-200", b"2000", b"abc", b"422", b"302", b"404"]


def framed(seed):
    """An answer's bytes from the status line on, whose frame may be wrong too; and whether it is a sound one of 200."""
    rng = random.Random(seed)
    body = malformed(seed)[:100_000]
    what = rng.random()
    if what < 0.5:
        return ok(body), body
    length = len(body) + rng.choice([-1, 1, 7, 10**6, -len(body)])
    return rng.choice(
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (max(0, length), body), body[: max(0, length)] if length <= len(body) else None),
            (b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n%s" % (rng.choice([b"-1", b"x", b"1e3", b"", b"+" + b"9" * 30]), body), None),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), body),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s" % (len(body) + 1, body), None),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n%s" % (rng.choice([b"-1", b"zz", b"-ff", b"\xff", b""]), body), None),
            (b"HTTP/1.1 200 OK\r\n\r\n" + body, None), (body, None), (b"", None), (rng.randbytes(rng.randrange(300)), None),
            (b"HTTP/%s 200 OK\r\nContent-Length: 1\r\n\r\n1" % rng.choice([b"9.9", b"x", b"", b"2"]), None),
            (b"HTTP/1.1 %s OK\r\nContent-Length: 1\r\n\r\n1" % rng.choice(STATUSES), None),
            (b"HTTP/1.1 200 OK\r\n\xff\xfe: \x00\r\nbad line\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body), ...),
        ]
    )  # fmt: skip


def test_hundreds_of_them_through_a_socket():
    """Until the connection closes: with a wrong frame nothing is taken; with a right one what the body says."""
    sent = []
    with RawServer(lambda request, connection: sent[-1][0]) as server:
        at_it = Server(server.url)
        taken = 0
        for seed in range(1200):
            sent.append(framed(seed))
            wanted = sent[-1][1]
            found = outcome(at_it.ask, "GET", "/", None, 30.0)
            if wanted is ...:
                continue
            good, value = (False, None) if wanted is None else strictly(wanted)
            assert (found is not None) is good, sent[-1][0][:200]
            if good:
                taken += 1
                assert repr(found[0]) == repr(value)
    assert taken > 200 and len(server.requests) == 1200


@pytest.mark.parametrize("name", ["babyai", "alfworld", "webshop", "webarena", "todo"])
def test_episodes_against_a_server_that_answers_anything(name, notes):
    """Reset and step give agreed types or the one error; a step behind an error or an end is refused."""
    rng, count, p = random.Random(name), Counter(), PROFILES[name]
    steps = [json.dumps(well).encode() for well in WELL if is_step(p, well)]
    first = {"webshop": b'["a", null]', "todo": b'"a"', "alfworld": b'{"observation": "a", "available_actions": ["a"]}'}
    session = b'{"id": 1, "env_idx": 1}' if p.id_at else b"1"
    whole = {b"/create": session, b"/observation": b'"seen"', b"/reset": first.get(name, b'{"observation": "a"}')}

    def reply(request, connection):
        path = request.split(b" ")[1].split(b"?")[0]
        return ok(whole.get(path) or rng.choice(steps)) if rng.random() < 0.7 else framed(rng.randrange(SEEDS))[0]

    with RawServer(lambda request, connection: ok(b'"ok"')) as server:
        env = make(server.url, {"base": name, "verify": False})
        server.reply = reply
        for _ in range(150):
            try:
                observation, info = env.reset()
                assert is_text(observation) and is_text(info["instruction"])
                ended = False
                while not ended:
                    observation, reward, terminated, truncated, info = env.step("a")
                    assert (
                        is_text(observation) and is_number(reward) and type(terminated) is type(truncated) is type(info["success"]) is bool
                    )
                    assert not (info["success"] and not terminated) and (info.get("outcome") is None or 0 <= info["outcome"] <= 1)
                    ended = terminated or truncated
                    count["step"] += 1
                count["end"] += 1
            except ServerError:
                count["error"] += 1
            with pytest.raises(RuntimeError, match="call reset"):
                env.step("a")
    assert count["error"] > 20 and count["step"] > 10, count
