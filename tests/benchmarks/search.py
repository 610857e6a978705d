"""Search: does more budget ever hurt, and how fast is it.

    python tests/benchmarks/search.py budget --run runs/quickstart [--prm agentprm] [--members agentprm other] [--tasks 300] [--sizes 2 4 8 16 32]
        [--rules "plain argmax" "policy margin 0.15"]
    python tests/benchmarks/search.py speed      # beam 4×4 beside a loop that samples and scores one candidate at a time
    python tests/benchmarks/search.py prefix     # scoring a node's actions in one pass beside path by path
    python tests/benchmarks/search.py restore    # states by snapshot beside replay

`budget` searches greedily by Q with M actions on the held-out tasks of a finished run of recipes/quickstart.yaml or study.yaml, by plain argmax and
by each conservative rule. What was searched is kept in the run's folder, and the same command goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

RULES: dict[str, dict[str, Any]] = {
    "plain argmax": {},
    "tie margin 0.05": {"search.tie_margin": 0.05},
    "policy margin 0.05": {"search.policy_margin": 0.05},
    "policy margin 0.15": {"search.policy_margin": 0.15},
    "log-probability 0.1": {"search.logprob_weight": 0.1},
    "PAV 0.5, best of 4": {"search.pav_alpha": 0.5, "search.pav_best_of_k": 4},
}
BABYAI = {"levels": "declare", "declare": True, "memory": True}


def budget(args: argparse.Namespace) -> None:
    """Success by M of each rule, with paired differences to the smallest M and to plain argmax at the same M."""
    run = Path(args.run)
    output = run / "search_budget.json"
    methods = [f"1x{m}" for m in args.sizes]
    common = {
        "env.name": "babyai", "env.args": json.dumps(BABYAI), "env.max_turns": 8, "env.max_tokens_per_turn": 8, "env.num_workers": 8,
        "env.split": "test", "env.first_task": args.first_task, "env.num_tasks": args.tasks, "data.max_len": 512,
        "policy.model_name_or_path": run / "sft", "search.temperature": args.temperature, "search.seed": args.seed, "search.output": output,
    }  # fmt: skip
    found = {}
    for rule, flags in ({"plain argmax": {}} | {rule: RULES[rule] for rule in args.rules}).items():
        searched = _searched({**common, **flags, "prm.model_name_or_path": f"PRM={run / args.prm}"}, methods, control=not flags)
        found[rule] = searched["PRM"]
        if not flags:
            found["random scores"] = searched["random"]
    if args.members:
        folder = run / "search_budget_ensemble"
        folder.mkdir(exist_ok=True)
        members = [str((run / name).resolve()) for name in args.members]
        (folder / "ensemble.json").write_text(json.dumps({"members": members, "combine": "lcb", "kappa": 1.0}))
        searched = _searched({**common, "prm.name": "ensemble", "prm.model_name_or_path": f"lcb={folder}"}, methods)
        found["lower bound of an ensemble"] = searched["lcb"]
    _tell(found, methods)


def _searched(flags: dict[str, Any], methods: list[str], *, control: bool = False) -> dict[str, dict[str, dict[str, float]]]:
    """Outcomes by PRM, method and task, of a `cli.search` that is run if it was not."""
    line = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    line += [] if control else ["--search.random_disable"]
    subprocess.run([sys.executable, "-m", "openrlhf_agentprm.cli.search", *line, "--search.methods", *methods], check=True)
    result: dict[str, dict[str, dict[str, float]]] = {}
    rules = {name.partition(".")[2]: value for name, value in flags.items() if name.startswith("search.") and name != "search.output"}
    names = ("tie_margin", "policy_margin", "logprob_weight", "pav_alpha")
    for entry in json.loads(Path(flags["search.output"]).read_text()):
        same = all(entry.get(n, 0.0) == rules.get(n, 0.0) for n in names)
        kind = (entry["first_task"], entry["num_tasks"], entry["seed"], entry["temperature"])
        if same and kind == (flags["env.first_task"], flags["env.num_tasks"], rules["seed"], rules["temperature"]):
            kept = {task: value for task, value in entry["outcomes"].items() if value is not None}
            result.setdefault(entry["prm"], {})[entry["method"]] = kept
    return result


def _tell(found: dict[str, dict[str, dict[str, float]]], methods: list[str]) -> None:
    from openrlhf_agentprm.report.compare import gain, of_tasks

    def estimate(rule: str, method: str) -> Any:
        return of_tasks(found[rule][method])

    def points(difference: Any) -> str:
        return f"{100 * difference.mean:+5.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"

    for title, reference in (("success, %", None), ("against the smallest M, points", "first"), ("against plain argmax, points", "plain")):
        print(f"\n{title}\n{'rule':28}" + "".join(m.rjust(22) for m in methods))
        for rule in found:
            cells = []
            for method in methods:
                new = estimate(rule, method)
                if reference is None:
                    cells.append(f"{100 * new.mean:5.1f} [{100 * new.low:.1f}, {100 * new.high:.1f}]")
                else:
                    old = estimate(rule, methods[0]) if reference == "first" else estimate("plain argmax", method)
                    cells.append(points(gain(new, old)))
            print(f"{rule:28}" + "".join(cell.rjust(22) for cell in cells))


def speed(args: argparse.Namespace) -> None:
    """Episodes/s of beam 4×4 over all tasks at once beside the same search task by task, candidate by candidate, on one engine."""
    from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
    from openrlhf_agentprm.host.engine import VLLMEngine
    from openrlhf_agentprm.prm.model import start_from
    from openrlhf_agentprm.prm.record import Record
    from openrlhf_agentprm.prm.scoring import ScalarPRM, score_all
    from openrlhf_agentprm.rollout.builder import Limits
    from openrlhf_agentprm.rollout.engine import Sampling
    from openrlhf_agentprm.rollout.pool import EnvPool
    from openrlhf_agentprm.search.beam import BeamSearch
    from openrlhf_agentprm.search.methods import parse_method
    from openrlhf_agentprm.search.options import Options
    from openrlhf_agentprm.search.scorers import prm_scorer

    class OneAtATime(BeamSearch):
        """Waits for each sample before it asks for the next."""

        def _sample(self, wanted: Any, sampling: Any = None, salt: str = "", capped: bool = False) -> Any:
            submit, self.sampled = self.engine.submit, []

            class Waiting:
                unfinished = 0

                def submit(_, *request: Any) -> None:
                    submit(*request)
                    while engine.unfinished:
                        self.sampled += engine.step()

            self.engine = Waiting()
            try:
                return super()._sample(wanted, sampling, salt, capped)
            finally:
                self.engine = engine

        def _drained(self) -> Any:
            return self.sampled

    with tempfile.TemporaryDirectory() as folder:
        policy = args.policy or f"{folder}/policy"
        if not args.policy:
            line = ["--env.name", "babyai", "--env.args", json.dumps(BABYAI), "--tiny.output", policy]
            subprocess.run([sys.executable, "-m", "openrlhf_agentprm.cli.tiny_policy", *line], check=True, capture_output=True)
        prm = ScalarPRM(start_from(policy, dtype="fp32").eval(), Record())
        chat = ChatFormat(load_tokenizer(policy))
        engine = VLLMEngine(policy, max_model_len=512, request_seeds=True)
        with EnvPool("babyai", BABYAI, 8) as pool:
            tasks = pool.tasks("validation", 0, args.tasks)

            def single(candidates: Any) -> list[tuple[float, float]]:
                found = [score_all(prm, [c.token_ids], [c.spans])[0] for c in candidates]
                return [(float(q_K[-1]), float(v_K[-1])) for q_K, v_K in found]

            def searched(kind: Any, scorer: Any, chosen: list[str]) -> Any:
                how = (Sampling(1.0), Limits(8, 512, 8), parse_method("4x4"), Options())
                return kind(engine, pool, chat, scorer, *how).run(chosen)

            searched(BeamSearch, prm_scorer(prm), tasks[:8])  # warm
            engine._engine.reset_prefix_cache()
            started = time.perf_counter()
            ours = searched(BeamSearch, prm_scorer(prm), tasks)
            batched = len(tasks) / (time.perf_counter() - started)
            engine._engine.reset_prefix_cache()
            few = tasks[: args.loop_tasks]
            started = time.perf_counter()
            theirs = [result for task in few for result in searched(OneAtATime, single, [task])]
            loop = len(few) / (time.perf_counter() - started)
        engine.close()
    alike = sum(a.path.actions == b.path.actions for a, b in zip(ours, theirs, strict=False))
    turns = [sum(len(r.path.actions) for r in found) / len(found) for found in (ours, theirs)]
    print(
        f"beam 4×4: {batched:.2f} episodes/s over {len(tasks)} tasks at once, {loop:.3f} in a loop over {len(few)} of them, one candidate at a "
        f"time: {batched / loop:.1f}× (wanted 5×); turns an episode {turns[0]:.1f} and {turns[1]:.1f}, the same path in {alike} of {len(few)} tasks"
    )


def prefix(args: argparse.Namespace) -> None:
    """Four and sixteen actions of eight tokens behind prefixes of growing length, of a model of 4 layers of 256."""
    from transformers import Qwen3Config, Qwen3ForTokenClassification

    from openrlhf_agentprm.prm.record import Record
    from openrlhf_agentprm.prm.scoring import ScalarPRM, score_all
    from openrlhf_agentprm.prm.tree_scoring import Branches, score_branches

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=64, max_position_embeddings=8192, num_labels=1, classifier_dropout=0.0,
    )  # fmt: skip
    prm = ScalarPRM(Qwen3ForTokenClassification(config).eval(), Record(values="state"))
    for length in (64, 256, 1024, 2048):
        for count in (4, 16):
            before = torch.randint(5, 500, (length,)).tolist()
            actions = torch.randint(5, 500, (count, 8)).tolist()
            paths, spans = [before + action for action in actions], [[(length, length + 8)] for _ in actions]
            packed, plain = [], []
            for _ in range(5):
                started = time.perf_counter()
                ((q_M, _),) = score_branches(prm, [Branches(before, [], actions)])
                packed.append(time.perf_counter() - started)
                started = time.perf_counter()
                alone = torch.stack([q_K[-1] for q_K, _ in score_all(prm, paths, spans)])
                plain.append(time.perf_counter() - started)
            ours, theirs = sorted(packed)[2], sorted(plain)[2]
            print(
                f"{length} tokens of prefix, {count} actions: {1000 * ours:.1f} ms against {1000 * theirs:.1f} ms, {theirs / ours:.1f}×; "
                f"largest difference {float((q_M - alone).abs().max()):.1e}",
                flush=True,
            )


def restore(args: argparse.Namespace) -> None:
    """One action from a state at growing depth, BabyAI with the expert's actions, in the worker's own code."""
    from openrlhf_agentprm.rollout.env_worker import EnvServer

    server = EnvServer("babyai", {**BABYAI, "declare": False, "action_level": "low"})
    task = server.answer({"do": "tasks", "split": "validation", "first": 0, "count": 1})["ok"][0]
    for depth in (1, 4, 16):
        path = {"task_id": task, "seed": 0, "actions": ["turn left"] * depth}
        seconds = {}
        for do in ("branch", "replay"):
            server.answer({"do": "branch", **copy.deepcopy(path), "actions": path["actions"][:-1] or ["turn left"]})
            started = time.perf_counter()
            for _ in range(100):
                assert "ok" in server.answer({"do": do, **copy.deepcopy(path)})
            seconds[do] = (time.perf_counter() - started) / 100
        print(f"action {depth} of a path: snapshot {1000 * seconds['branch']:.2f} ms, replay {1000 * seconds['replay']:.2f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["budget", "speed", "prefix", "restore"])
    parser.add_argument("--run", default="runs/quickstart", help="finished run of the quickstart or the study")
    parser.add_argument("--prm", default="agentprm", help="its stage with the PRM")
    parser.add_argument("--members", nargs="*", default=[], help="its stages with the PRMs of an ensemble")
    parser.add_argument("--sizes", nargs="+", type=int, default=[2, 4, 8, 16, 32], help="M")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), help="to set beside plain argmax")
    parser.add_argument("--tasks", type=int, default=None, help="how many (300 for budget, 48 for speed)")
    parser.add_argument("--first_task", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--policy", default=None, help="speed: instead of an untrained one")
    parser.add_argument("--loop_tasks", type=int, default=6, help="speed: tasks of the loop")
    args = parser.parse_args()
    args.tasks = args.tasks or {"budget": 300}.get(args.what, 48)
    globals()[args.what](args)


if __name__ == "__main__":
    main()
