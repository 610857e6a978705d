"""Spare prompts by the host's own generator over real Ray actors, and by an executor whose engine is asked for an endless turn."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from openrlhf_agentprm.core.errors import StoppedError
from openrlhf_agentprm.host import spare_prompts
from openrlhf_agentprm.host.turn_limits import ROLLOUT_VARIABLE, rollout_settings

pytestmark = pytest.mark.host
BROKEN, FAIL = "p3", {"p1", "p6", "p10"}  # a prompt whose environment breaks, and those that filtering throws away


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def engine(cluster):
    """Answers a prompt when it is asked to, as the rollout actor does, and notes what is given up."""

    class Engine:
        def __init__(self):
            self.given_up, self.began = [], []

        async def generate_responses(self, prompt, label, sampling_params, num_samples, **_):
            rollout = spare_prompts.rollout_of(sampling_params)
            self.began.append((prompt, rollout))
            await asyncio.sleep(0.02 * (int(prompt[1:]) * 7 % 5))
            one = {
                "prompt": prompt, "label": label, "observation_tokens": [5, 6, 7], "action_ranges": [(1, 3)], "turn_rewards": [1.0],
                "valid_actions": [True], "policy_versions": [(0, 0)], "rollout_log_probs": None, "truncated": False, "images": None,
                "mm_train_inputs": None, "extra_logs": {}, "status": "env_error" if prompt == BROKEN else "success",
                "reward": float(prompt not in FAIL), "scores": 0.0 if prompt in FAIL else 0.5,
            }  # fmt: skip
            return [dict(one) for _ in range(num_samples)]

        def get_num_unfinished_requests(self):
            return 0

        async def agentprm_give_up(self, rollout):
            self.given_up.append(rollout)

        async def told(self):
            return self.given_up, self.began

    return cluster.remote(num_cpus=0)(Engine).remote()


def generator(engine, prompts, spare, *, filtering=False, generated=4):
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

    args = SimpleNamespace(
        env=SimpleNamespace(name="e", spare_prompts=spare), train=SimpleNamespace(full_determinism_enable=False),
        agentprm=SimpleNamespace(on=True), vllm=SimpleNamespace(enable_sleep=False),
        rollout=SimpleNamespace(batch_size=4, n_samples_per_prompt=2, vllm_generate_batch_size=generated),
        algo=SimpleNamespace(
            dynamic_filtering_enable=filtering, dynamic_filtering_range=(0.1, 0.9), advantage=SimpleNamespace(is_correction_level="off")
        ),
    )  # fmt: skip
    loader = [(["d"], [f"p{i}"], [f"label {i}"], [None]) for i in range(prompts)]
    strategy = SimpleNamespace(args=args)
    return SamplesGenerator(strategy, loader, loader[:3], None, [engine])


def a_pass(made):
    """The prompts that were trained on in a pass over the data, a step at a time."""
    steps, over = [], False
    while not over:
        samples, _, _, over = made.generate_samples(max_len=64, max_new_tokens=8)
        steps.append([sample.prompts[0] for sample in samples][::2])
        assert all((spare_prompts.GIVEN_UP in sample.info) == bool(made.args.env.spare_prompts) for sample in samples)
    return steps


@pytest.mark.parametrize("prompts", [8, 9, 10, 13])
@pytest.mark.parametrize("generated", [4, 6])
def test_every_prompt_is_trained_on_once_a_pass(cluster, engine, prompts, generated):
    made = generator(engine, prompts, 2, generated=generated)
    for _ in range(2):
        trained = Counter(prompt for step in a_pass(made) for prompt in step)
        assert trained.pop(BROKEN, 0) <= 1, "another one takes its place, as long as there is one"
        assert trained == {f"p{i}": 1 for i in range(prompts) if f"p{i}" != BROKEN}
    given_up, began = cluster.get(engine.told.remote())
    assert given_up == sorted(set(given_up)) and given_up, "each rollout once at most"
    assert min(rollout for _, rollout in began) == 1


def test_where_the_environment_breaks_in_every_prompt_the_run_ends(cluster, engine):
    made = generator(engine, 3, 0)
    made.prompts_dataloader = [(["d"], [BROKEN], [f"label {i}"], [None]) for i in range(60)]
    with pytest.raises(StoppedError, match="the environment broke in each of the last 32 prompts, after its retries"):
        made.generate_samples(max_len=64, max_new_tokens=8)


def test_filtered_prompts_are_replaced_and_none_is_forgotten(cluster, engine):
    made = generator(engine, 16, 3, filtering=True)
    trained = Counter(prompt for step in a_pass(made) for prompt in step)
    trained.pop(BROKEN, 0)
    assert trained == {f"p{i}": 1 for i in range(16) if f"p{i}" not in FAIL | {BROKEN}}
    _, began = cluster.get(engine.told.remote())
    assert {prompt for prompt, _ in began} == {f"p{i}" for i in range(16)}, "each was looked at"


def test_an_evaluation_is_never_given_up(cluster, engine):
    made = generator(engine, 9, 2)
    made.generate_samples(max_len=64, max_new_tokens=8)
    evaluated = made.generate_eval_samples(max_len=64, max_new_tokens=8)
    assert [sample.prompts[0] for sample in evaluated][::2] != [] and len(evaluated) == 6
    given_up, began = cluster.get(engine.told.remote())
    assert given_up == [1] and sum(rollout == 0 for _, rollout in began) == 3


def test_without_the_flag_the_generator_waits_for_all(cluster, engine):
    made = generator(engine, 9, 0)
    trained = [prompt for step in a_pass(made) for prompt in step]
    assert sorted({*trained, BROKEN}) == [f"p{i}" for i in range(9)]
    given_up, began = cluster.get(engine.told.remote())
    assert given_up == [] and all(rollout == 0 for _, rollout in began)


def test_what_is_given_up_leaves_the_engine_and_its_environment(tiny, monkeypatch):
    """Two rollouts are in play; of the first, one episode is in the engine, and one has not begun. The second goes on."""
    env = {"name": "thirdparty_count", "num_workers": 2, "max_turns": 3, "max_tokens_per_turn": 4}
    monkeypatch.setenv(ROLLOUT_VARIABLE, json.dumps({"env": env, "policy": str(tiny)}))
    rollout_settings.cache_clear()
    from openrlhf.trainer.ray.vllm_engine import _load_agent_executor
    from vllm import SamplingParams

    from openrlhf_agentprm.host import env_pools

    async def play():
        executor = _load_agent_executor(str(Path(env_pools.__file__).with_name("executor.py")))
        out, release = [], asyncio.Event()

        class Endless:
            asked = 0

            async def generate(self, tokens, params):
                Endless.asked += 1
                assert params.extra_args is None, "the number is ours, not the engine's"
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    out.append("aborted")
                    raise
                end = [SimpleNamespace(token_ids=[executor.chat.end_token_id], logprobs=None)]
                return SimpleNamespace(outputs=end, policy_versions=(0, 0))

        def episode(rollout):
            label = json.dumps({"task_id": "train-1", "split": "train", "seed": 0})
            params = SamplingParams(extra_args={spare_prompts.ROLLOUT: rollout} if rollout else None)
            return asyncio.ensure_future(executor.execute("p", label, params, 96, None, Endless()))

        played = [episode(1), episode(2), episode(1)]
        while Endless.asked < 2:
            await asyncio.sleep(0.01)
        await executor.give_up(1)
        assert out == ["aborted"] and not any(rollout == 1 for rollout in executor._sampling.values())
        first, third = await played[0], await played[2]
        later = episode(0)
        while Endless.asked < 3:
            await asyncio.sleep(0.01)
        await executor.give_up(1)
        assert not played[1].done() and not later.done(), "a later rollout, and an evaluation, play on"
        release.set()
        return [first, third], [await played[1], await later]

    given_up, whole = asyncio.run(asyncio.wait_for(play(), 120))
    rollout_settings.cache_clear()
    assert [answer["action_ranges"] for answer in given_up] == [[], []]
    assert [answer["status"] for answer in whole] == ["truncated", "truncated"] and all(len(a["action_ranges"]) == 3 for a in whole)
