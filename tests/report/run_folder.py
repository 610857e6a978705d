"""A small run folder made of real stores, a real PRM, real evaluations and real TensorBoard files."""

import json
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from openrlhf_agentprm.agents.tiny import make_model, make_tokenizer, save_policy
from openrlhf_agentprm.cli import evaluate
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.data.store import EpisodeWriter
from openrlhf_agentprm.pipeline.recipe import Stage, arguments
from openrlhf_agentprm.pipeline.run import launch_line
from openrlhf_agentprm.prm.evaluation import clean, with_interval
from openrlhf_agentprm.prm.model import save_prm, start_from
from openrlhf_agentprm.prm.record import Record

HOSTILE = """</script><script>alert('boom')</script><img src=x onerror=alert(1)> & "quotes" <!-- ]]> {{ 7*7 }}"""
TASKS = [f"task-{n}" for n in range(6)]
TOKENIZER = make_tokenizer(["open the door of a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9"])
WINS = {"task-0": 4, "task-1": 0, "task-2": 2, "task-3": 2, "task-4": 3, "task-5": 1}  # of 4 samples: 12 of 24


@dataclass
class Folder:
    """Writes a run folder stage by stage."""

    path: Path
    recipe: dict = field(default_factory=lambda: {"name": "small", "description": "a run for tests", "seed": 7, "stages": {}})
    lines: list = field(default_factory=list)

    def add(self, name, command, flags, *, title="", output=None, state="done", seconds=12.0):
        entry = {"command": command, "flags": flags} | ({"title": title} if title else {}) | ({"output": output} if output else {})
        self.recipe["stages"][name] = entry
        line = shlex.join(launch_line(Stage(name, command, arguments(flags), self.path / (output or name), [])))
        self.lines.append(line)
        (self.path / "state").mkdir(parents=True, exist_ok=True)
        if state != "waiting":
            (self.path / "state" / f"{name}.begun").write_text("mark\n{}")
        if state == "done":
            record = {"mark": "mark", "seconds": seconds, "finished": "2026-01-02T03:04:05+00:00", "command": line}
            (self.path / "state" / f"{name}.json").write_text(json.dumps(record))
        return self.path / (output or name)

    def close(self):
        (self.path / "recipe.yaml").write_text(yaml.safe_dump(self.recipe | {"run_dir": str(self.path)}, sort_keys=False))
        about = {"python": "3.11.7", "cpus": 2, "versions": {"torch": "2.13.0", "openrlhf": "0.11.2"}, "launch_lines": self.lines}
        (self.path / "run.json").write_text(json.dumps(about))
        return self.path


def episode(task, sample, success, *, split="test", policy="sft", observation="see a door", turns=None, temperature=1.0, status=None):
    """Failures last a turn longer than successes."""
    count = turns or (2 if success else 3)
    actions = [f"open {sample} {k}" for k in range(count)]
    spoken = [TOKENIZER.encode(action, add_special_tokens=False) for action in actions]
    assert all(len(tokens) == 3 for tokens in spoken)
    ids = [token for k, tokens in enumerate(spoken) for token in (5 + (hash_of(task) + sample + k) % 20, *tokens)]
    return Episode(
        env="doors", task_id=task, split=split, seed=0, sample=sample, policy=policy, policy_digest=policy,
        sampling={"temperature": temperature, "top_p": 1.0}, status=status or (Status.SUCCESS if success else Status.FAILURE),
        outcome=float(success), terminated=True, truncated=False, token_ids=ids, logprobs=[-0.1] * len(ids),
        turns=[Turn(observation, action, 4 * k + 1, 4 * k + 4, valid_action=k != 1) for k, action in enumerate(actions)],
        instruction=f"open the door of {task}", final_observation="the end",
    )  # fmt: skip


def hash_of(text):
    return sum(map(ord, text))


def write_store(path, episodes):
    with EpisodeWriter(path) as writer:
        for one in episodes:
            writer.add(one)
    (path / ".collect.json").write_text(json.dumps({"retries": 3, "worker_restarts": 0}))


def sampled(wins, policy, samples=4, **more):
    return [episode(task, s, s < wins[task], policy=policy, **more) for task in wins for s in range(samples)]


def write_prm(folder, policy, **record):
    from transformers import AutoTokenizer

    save_prm(start_from(str(policy), dtype="fp32"), AutoTokenizer.from_pretrained(policy), folder, Record(**record))
    rows = [{"step": n, "epoch": 0, "loss": 1.0 / n, "lr": 1e-3} for n in range(1, 21)]
    rows[-1]["eval_auc_last_within_task"] = 0.75
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_scalars(folder, curves, first=1):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for tag, values in curves.items():
            for step, value in enumerate(values, first):
                writer.add_scalar(tag, value, step)


def search_entry(prm, digest, wins, split="test"):
    import torch

    outcomes = {task: float(wins[task] > 1) for task in wins}
    summary = with_interval(torch.tensor(list(outcomes.values())))
    return clean(
        {"prm": prm, "prm_digest": digest, "beams": 1, "actions": 4, "split": split, "success": summary, "tasks": len(wins),
         "broken": 0, "sampled_actions_per_task": 9.5, "outcomes": outcomes}
    )  # fmt: skip


def build_run(path):
    """Two PRMs, two PPO runs, hostile text wherever an environment or a recipe can put some."""
    run = Folder(path)
    env = {"env.name": "doors", "env.args": {"size": 3}}
    policy = run.add("policy0", "tiny_policy", {"tiny.output": str(path / "policy0")}, title="a tiny policy")
    save_policy(make_model(TOKENIZER, hidden_size=64, heads=2, layers=1, context=64), TOKENIZER, policy)

    demos = run.add(
        "demos", "collect", env | {"collect.demonstrator": "expert", "policy.model_name_or_path": str(policy)}, title="demonstrations"
    )
    write_store(demos, [episode(f"train-{n}", 0, True, split="train", temperature=None) for n in range(5)])
    flags = {"ckpt.output_dir": str(path / "sft"), "logger.tensorboard_dir": str(path / "tensorboard/sft")}
    shutil.copytree(policy, run.add("sft", "train_sft", flags, title="warm start"))
    write_scalars(path / "tensorboard/sft/run", {"train/gpt_loss": [2.0, 1.0, 0.5]})

    flags = env | {"env.split": "test", "policy.model_name_or_path": str(path / "sft")}
    samples = run.add("samples", "collect", flags | {"collect.n_samples_per_task": 4}, title=f"fresh {HOSTILE}")
    broken = episode("task-0", 9, False, status=Status.ENV_ERROR)
    write_store(samples, [*sampled(WINS, "sft", observation=HOSTILE), broken])
    greedy = run.add("greedy", "collect", flags | {"collect.temperature": 0.0}, title="fresh, greedy")
    write_store(greedy, [episode(task, 0, WINS[task] > 1, temperature=0.0) for task in TASKS])

    prms = {"Agent": "agentprm", "$x^2$ <b>": "orm"}
    for folder, record in (("agentprm", {"method": "td_gae"}), ("orm", {"method": "outcome_last", "value_trained": False})):
        flags = {"ckpt.output_dir": str(path / folder), "label.name": record["method"]}
        write_prm(run.add(folder, "train_prm", flags, title=f"train {folder}"), path / "sft", **record)
    flags = {"eval.dataset": str(samples), "eval.greedy_dataset": str(greedy), "eval.output": str(path / "evaluation.json"),
             "prm.model_name_or_path": [f"{name}={path / folder}" for name, folder in prms.items()], "prm.device": "cpu"}  # fmt: skip
    evaluate.main(arguments(flags))
    run.add("evaluation", "evaluate", flags, title="best of N", output="evaluation.json")
    output = run.add("search", "search", env | {"policy.model_name_or_path": str(path / "sft")}, title="search", output="search.json")
    output.write_text(json.dumps([search_entry("Agent", "d1", WINS), search_entry("random", "", WINS | {"task-2": 0})]))

    for name, extra, wins in (
        ("ppo_prm", {"prm.model_name_or_path": str(path / "agentprm"), "algo.advantage.lambd": 0.9}, 4),
        ("ppo_plain", {}, 1),
    ):
        board = path / "tensorboard" / name
        flags = {"actor.model_name_or_path": str(path / "sft"), "ckpt.output_dir": str(path / name), "logger.tensorboard_dir": str(board)}
        run.add(name, "train_ppo_ray", flags | extra, title=f"PPO run {name}").mkdir()
        write_scalars(board / "first", {"train/turns/outcome_mean": [0.5, 0.6, 0.1], "train/status/success": [5, 6, 7]})
        flags = env | {"env.split": "test", "policy.model_name_or_path": str(path / name)}
        store = run.add(f"test_{name}", "collect", flags, title=f"after {name}")
        write_store(store, sampled(dict.fromkeys(TASKS, wins), name))
    return run.close()
