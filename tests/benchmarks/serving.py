"""Episodes/s through HTTP with concurrent clients, beside calling the scorer itself, in one run.

    python tests/benchmarks/serving.py [--prm FOLDER] [--clients 16]

The server is a process of its own and the clients are another, so on few cores all of them share what the scorer has to itself.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from servers import get, serving
from speed import alternate

EPISODES, TURNS, STEP = 256, 10, 20  # of 200 tokens


def tiny_prm(folder: str) -> str:
    from openrlhf_agentprm.agents.tiny import make_model, make_tokenizer, save_policy
    from openrlhf_agentprm.prm.model import save_prm, start_from
    from openrlhf_agentprm.prm.record import Record

    tokenizer = make_tokenizer([" ".join(f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh")])
    save_policy(make_model(tokenizer, context=2048), tokenizer, f"{folder}/policy")
    save_prm(start_from(f"{folder}/policy", dtype="fp32"), tokenizer, f"{folder}/prm", Record(method="td_gae"))
    return f"{folder}/prm"


def main() -> None:
    from openrlhf_agentprm.prm.scoring import ScalarPRM, score_all

    clients = int(sys.argv[sys.argv.index("--clients") + 1]) if "--clients" in sys.argv else 16
    with tempfile.TemporaryDirectory() as folder:
        path = sys.argv[sys.argv.index("--prm") + 1] if "--prm" in sys.argv else tiny_prm(folder)
        tokens = [torch.randint(5, 60, (TURNS * STEP,)).tolist() for _ in range(EPISODES)]
        spans = [[(STEP * (k + 1) - 5, STEP * (k + 1)) for k in range(TURNS)]] * EPISODES
        prm = ScalarPRM.load(path)
        with serving(path) as (url, _):
            for size in (1, 8):
                direct, found = score_all(prm, tokens[:32], spans[:32]), ask(url, tokens[:32], spans[:32], size, clients)  # warm
                off = max(abs(a - b) for q, (p, _) in zip(found, direct, strict=True) for a, b in zip(q, p.tolist(), strict=True))
                ours, alone = alternate(lambda: ask(url, tokens, spans, size, clients), lambda: score_all(prm, tokens, spans), 3)  # noqa: B023
                print(
                    f"{clients} clients, {size} episode(s) a request: {EPISODES / ours:.0f} episodes/s; the scorer itself {EPISODES / alone:.0f}: "
                    f"{alone / ours:.0%} (scores within {off:.1e})",
                    flush=True,
                )
            told = dict(line.rsplit(" ", 1) for line in get(f"{url}/metrics").splitlines() if line.startswith("agentprm_batch"))
            print(f"requests a batch: {float(told['agentprm_batch_requests_sum']) / float(told['agentprm_batch_requests_count']):.1f}")


def ask(url: str, tokens: list[list[int]], spans: list[list[tuple[int, int]]], size: int, clients: int) -> list[list[float]]:
    """Q of every turn, asked for in requests of `size` episodes over `clients` connections that stay open."""
    host, port = url.removeprefix("http://").split(":")
    parts = [range(i, min(i + size, len(tokens))) for i in range(0, len(tokens), size)]

    def client(number: int) -> list[tuple[int, list[float]]]:
        connection = http.client.HTTPConnection(host, int(port))
        found = []
        for part in parts[number::clients]:
            body = {"episodes": [{"token_ids": tokens[i], "spans": spans[i]} for i in part]}
            connection.request("POST", "/score_episodes", json.dumps(body), {"Content-Type": "application/json"})
            entries = json.loads(connection.getresponse().read())["episodes"]
            found += [(i, [turn["q"] for turn in entry["turns"]]) for i, entry in zip(part, entries, strict=True)]
        connection.close()
        return found

    with ThreadPoolExecutor(clients) as pool:
        return [q for _, q in sorted(x for found in pool.map(client, range(clients)) for x in found)]


if __name__ == "__main__":
    main()
