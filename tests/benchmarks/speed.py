"""Speed against the host and against doing it the plain way, as ratios measured in one run.

    python tests/benchmarks/speed.py [gae] [scoring] [labels] [evaluation] [collection] [commands]

Timings on a shared machine are noisy; each ratio is of medians of runs that alternate.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch


def alternate(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of both, run in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, kept in zip((ours, theirs), times, strict=True):
            started = time.perf_counter()
            function()
            kept.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def tell(name: str, ours: float, theirs: float, wanted: float) -> None:
    print(f"{name}: {1000 * ours:.2f} ms against {1000 * theirs:.1f} ms, {theirs / ours:.0f}× (wanted {wanted:g}×)", flush=True)


def gae() -> None:
    """turn_gae + spread_turns and token_gae beside the host's loop, B = 8, T = 32768, K = 64."""
    from openrlhf_agentprm.core.advantages import spread_turns, token_gae, turn_gae
    from openrlhf_agentprm.host.activate import activate
    from openrlhf_agentprm.host.cpu import prepare_environment

    prepare_environment()
    activate()
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    episodes, tokens, turns = 8, 32_768, 64
    ids = torch.arange(tokens).div(tokens // turns, rounding_mode="floor").expand(episodes, -1).clone()
    ids[:, ::3] = -1
    mask = ids >= 0
    values, rewards = torch.rand(episodes, tokens), torch.zeros(episodes, tokens)
    rewards[:, -1] = 1.0
    turn_values, turn_rewards = torch.rand(episodes, turns), torch.zeros(episodes, turns)
    all_turns = torch.ones(episodes, turns, dtype=torch.bool)
    host = lambda: RemoteExperienceMaker.get_advantages_and_returns(None, values, rewards, mask, 1.0, 0.95)  # noqa: E731

    def by_turn() -> torch.Tensor:
        return spread_turns(turn_gae(turn_rewards, turn_values, all_turns, gamma=1.0, lambd=0.95)[0], ids)

    def by_token() -> torch.Tensor:
        return token_gae(rewards, values, mask, gamma=1.0, lambd=0.95)[0]

    tell("turn_gae + spread_turns beside the host's loop", *alternate(by_turn, host, 7), wanted=100)
    tell("token_gae beside the host's loop", *alternate(by_token, host, 7), wanted=30)


def scoring() -> None:
    """One pass over 20-turn episodes beside scoring each turn's prefix on its own."""
    from openrlhf_agentprm.agents.tiny import make_model, make_tokenizer, save_policy
    from openrlhf_agentprm.prm.model import start_from
    from openrlhf_agentprm.prm.record import Record
    from openrlhf_agentprm.prm.scoring import ScalarPRM, score_all

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer([" ".join(f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh")])
        save_policy(make_model(tokenizer, context=2048), tokenizer, folder)
        prm = ScalarPRM(start_from(folder, dtype="fp32").eval(), Record(values="state"))
    spans = [[(30 * k + 25, 30 * k + 30) for k in range(20)] for _ in range(32)]
    episodes = [torch.randint(5, 60, (600,)).tolist() for _ in spans]

    def one_pass() -> object:
        return score_all(prm, episodes, spans)

    def prefixes() -> object:
        return score_all(prm, [e[:end] for e in episodes for _, end in spans[0]], [[span] for _ in episodes for span in spans[0]])

    ours, theirs = alternate(one_pass, prefixes, 3)
    tell("one-pass scoring of 32 episodes of 20 turns beside prefixes", ours, theirs, wanted=5)


def collection() -> None:
    """Episodes/s of the collector beside the bare engine generating sequences of the same lengths from the same prompts."""
    from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
    from openrlhf_agentprm.host.engine import VLLMEngine
    from openrlhf_agentprm.rollout.builder import Assignment, Limits
    from openrlhf_agentprm.rollout.collect import play_episodes
    from openrlhf_agentprm.rollout.engine import Sampling
    from openrlhf_agentprm.rollout.pool import EnvPool

    policy = sys.argv[sys.argv.index("--policy") + 1] if "--policy" in sys.argv else "runs/quickstart/sft"
    arguments = {"levels": "declare", "declare": True, "memory": True}
    slots, count = 64, 1500
    chat, sampling = ChatFormat(load_tokenizer(policy)), Sampling()
    engine = VLLMEngine(policy, max_model_len=512)
    with EnvPool("babyai", arguments, slots) as pool:
        tasks = pool.tasks("validation", 0, count)
        wanted = [Assignment("babyai", t, "validation", 0, 0, policy, "d", sampling.identity()) for t in tasks]
        list(play_episodes(wanted[:200], pool, engine, chat, sampling, Limits(8, 512, 8)))  # warm
        before = _children_seconds(pool)
        started = time.perf_counter()
        episodes = list(play_episodes(wanted, pool, engine, chat, sampling, Limits(8, 512, 8)))
        ours = time.perf_counter() - started
        environment = _children_seconds(pool) - before
    engine._engine.reset_prefix_cache()
    bare = _bare_engine(engine, episodes, slots)
    engine.close()
    print(
        f"collection: {count / ours:.1f} episodes/s, bare engine {count / bare:.1f}: {bare / ours:.0%} (wanted 55 %); environments used "
        f"{environment:.1f} CPU-seconds; charged to the bare engine's time: {(bare + environment) / ours:.0%} (wanted 90 %)"
    )


def _bare_engine(engine: object, episodes: list, slots: int) -> float:
    """Seconds that the engine takes for the same prompts and lengths, `slots` at a time, with no environment and no bookkeeping of ours."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    llm = engine._engine  # type: ignore[attr-defined]
    waiting = list(range(len(episodes)))[::-1]
    turn_of: dict[str, int] = {}
    started = time.perf_counter()

    def submit(index: int, turn: int) -> None:
        t = episodes[index].turns[turn]
        length = t.action_end - t.action_start
        params = SamplingParams(
            temperature=1.0, max_tokens=length, min_tokens=length, ignore_eos=True, logprobs=0, detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        turn_of[str(index)] = turn
        llm.add_request(f"{index}", {"prompt_token_ids": episodes[index].token_ids[: t.action_start]}, params)

    for _ in range(slots):
        submit(waiting.pop(), 0)
    while llm.has_unfinished_requests():
        for output in llm.step():
            if output.finished:
                index = int(output.request_id.partition("-")[0])
                turn = turn_of[str(index)] + 1
                if turn < len(episodes[index].turns):
                    submit(index, turn)
                elif waiting:
                    submit(waiting.pop(), 0)
    return time.perf_counter() - started


def _children_seconds(pool: object) -> float:
    """CPU-seconds of the environment workers so far."""
    import os

    total = 0.0
    for worker in pool._workers:  # type: ignore[attr-defined]
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def commands() -> None:
    """`agentprm --help` and `list`."""
    for arguments in (["--help"], ["list"]):
        times = []
        for _ in range(7):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "openrlhf_agentprm.cli.main", *arguments], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        print(f"agentprm {arguments[0]}: {statistics.median(times):.2f} s (wanted under 0.5)")


def labels() -> None:
    """A million turns labelled by td_gae, scores given, and from a store on disk by mc_visits, rest_mcts and relabel."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from openrlhf_agentprm.annotate.relabel import relabel
    from openrlhf_agentprm.annotate.rest import rest_mcts
    from openrlhf_agentprm.annotate.visits import mc_visits
    from openrlhf_agentprm.core.batches import LabelBatch
    from openrlhf_agentprm.core.labels import td_gae
    from openrlhf_agentprm.data.episode import Episode, Status, Turn
    from openrlhf_agentprm.data.store import SCHEMA, EpisodeStore

    episodes, turns, size = 50_000, 20, 64
    q, outcome = torch.rand(episodes, turns), (torch.rand(episodes) < 0.5).float()
    rewards = torch.nn.functional.pad(outcome[:, None], (turns - 1, 0))
    mask, ended = torch.ones(episodes, turns, dtype=torch.bool), torch.ones(episodes, dtype=torch.bool)
    started = time.perf_counter()
    for i in range(0, episodes, size):
        part = slice(i, i + size)
        td_gae(LabelBatch(q_BK=q[part], rewards_BK=rewards[part], mask_BK=mask[part], outcome_B=outcome[part], terminated_B=ended[part],
                          truncated_B=~ended[part]))  # fmt: skip
    print(
        f"td_gae: {episodes * turns:,} turns in {time.perf_counter() - started:.1f} s, {size} episodes a batch (wanted under 10)",
        flush=True,
    )
    spans = [Turn("an observation", "an action", 20 + 15 * k, 25 + 15 * k) for k in range(turns)]
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(10):
            rows = []
            for i in range(shard * episodes // 10, (shard + 1) * episodes // 10):
                tokens = torch.randint(5, 8, (spans[-1].action_end,)).tolist()
                tokens[:28] = [5] * 28  # the prompt and the first actions of a task's samples are alike
                rows.append(
                    Episode(
                        env="e", task_id=str(i // 16), split="train", seed=0, sample=i % 16, policy="p", policy_digest="d", sampling={},
                        status=Status.SUCCESS, outcome=float(outcome[i]), terminated=True, truncated=False, token_ids=tokens,
                        logprobs=[0.0] * len(tokens), turns=spans,
                    ).to_row()
                )  # fmt: skip
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), Path(folder, f"episodes-{shard}.parquet"))
        started = time.perf_counter()
        figures = mc_visits.annotate(EpisodeStore(folder)).figures
        print(
            f"mc_visits: {figures['turns']:,} turns of {figures['states_and_actions']:,} states and actions in "
            f"{time.perf_counter() - started:.1f} s (wanted under 10)",
            flush=True,
        )
        for name, method in (("rest_mcts", rest_mcts), ("relabel", relabel)):
            started = time.perf_counter()
            rows = len(method.annotate(EpisodeStore(folder)).rows)
            print(f"{name}: {rows:,} rows from {episodes * turns:,} turns in {time.perf_counter() - started:.1f} s", flush=True)


def evaluation() -> None:
    """All that cli.evaluate does but scoring, with three PRMs and Monte-Carlo values: 300 tasks × 16 samples of 3 to 12 turns."""
    from openrlhf_agentprm.data.episode import Episode, Status, Turn
    from openrlhf_agentprm.prm.evaluation import sample_grid
    from openrlhf_agentprm.prm.evaluation.comparison import beside_truth, compare
    from openrlhf_agentprm.prm.evaluation.ground_truth import GroundTruth

    episodes = []
    for task in range(300):
        for sample in range(16):
            turns = [Turn("an observation", f"act {k}", 20 + 15 * k, 25 + 15 * k) for k in range(int(torch.randint(3, 13, ())))]
            tokens, success = torch.randint(5, 8, (turns[-1].action_end,)), bool(torch.rand(()) < 0.5)
            tokens[:23] = 5  # states recur at the first turns
            episodes.append(
                Episode(
                    env="e", task_id=str(task), split="test", seed=0, sample=sample, policy="p", policy_digest="d", sampling={},
                    status=Status.SUCCESS if success else Status.FAILURE, outcome=float(success), terminated=True, truncated=False,
                    token_ids=tokens.tolist(), logprobs=[-0.1] * len(tokens), turns=turns,
                )
            )  # fmt: skip
    grid = sample_grid(episodes)
    labels = {e.episode_id: (torch.rand(len(e.turns)).round(decimals=1).tolist(), [1.0] * len(e.turns)) for e in grid.episodes}
    scores = {name: [torch.rand(len(e.turns)) for e in grid.episodes] for name in ("first", "second", "third")}
    started = time.perf_counter()
    compare(grid, scores)
    between = time.perf_counter()
    beside_truth(GroundTruth.of(grid, labels), scores, {"method": "mc_soft"}, "labels", 0.1)
    print(f"evaluation: {between - started:.1f} s, and {time.perf_counter() - between:.1f} s against Monte-Carlo values", flush=True)


ALL = ("gae", "scoring", "labels", "evaluation", "collection", "commands")
if __name__ == "__main__":
    chosen = [a for a in sys.argv[1:] if a in ALL] or ALL
    torch.manual_seed(0)
    for name in chosen:
        globals()[name]()
