"""The same seed, the same curve: two PPO runs to the bit; and what is behind it, by itself."""

import re
from types import SimpleNamespace

import pytest
from test_ppo import ppo
from test_ppo_estimators import GAME

from openrlhf_agentprm.host.determinism import TurnSeeds, in_order, seed_dispatch


def generator(determinism=True, name="babyai", seed=7):
    args = SimpleNamespace(env=SimpleNamespace(name=name), train=SimpleNamespace(seed=seed, full_determinism_enable=determinism))
    return SimpleNamespace(args=args)


def seeds(*generators):
    found = []
    for one in generators:
        found.append(SimpleNamespace(seed=None))
        seed_dispatch(one, found[-1])
    return [params.seed for params in found]


def test_every_dispatch_sample_attempt_and_turn_has_a_seed_of_its_own_and_the_same_in_another_run():
    one = generator()
    first, second = seeds(one, one)
    assert first != second and [first, second] == seeds(*[generator()] * 2) and seeds(generator(seed=8)) != [first]
    assert seeds(generator(determinism=False), generator(name=None)) == [None, None]

    def drawn():
        turns = TurnSeeds()
        episodes = [turns.episode(label, dispatch) for label in "ab" for dispatch in (first, second) for _ in range(3)]
        return [episode(attempt, turn) for episode in episodes for attempt in range(2) for turn in range(4)]

    assert drawn() == drawn() and len(set(drawn())) == 2 * 2 * 3 * 2 * 4
    assert TurnSeeds().episode("a", None)(0, 0) is None


def test_prompts_stand_as_they_were_sent_with_replacements_last():
    finished = [SimpleNamespace(labels=[label], sample=number) for label in ("c", "x", "a", "b") for number in range(2)]
    order = in_order(generator(), ["a", "b", "c"], finished)
    assert [(e.labels[0], e.sample) for e in order] == [(label, number) for label in "abcx" for number in range(2)]
    assert in_order(generator(determinism=False), ["a", "b", "c"], finished) is finished


@pytest.mark.host
def test_two_runs_with_one_seed_are_the_same_to_the_bit(tiny, prm, tmp_path):
    def curve(folder):
        found, _ = ppo(
            *GAME, "--env.num_tasks", 24, "--actor.model_name_or_path", tiny, "--critic.model_name_or_path", tiny,
            "--prm.model_name_or_path", prm, "--algo.advantage.estimator", "turn_gae", "--algo.advantage.process_reward", "progress",
            "--actor.adam.lr", 1e-3, "--train.full_determinism_enable", "--ckpt.output_dir", folder,
        )  # fmt: skip
        return {step: {k: v for k, v in status.items() if not re.search("tim|seconds", k)} for step, status in found.items()}

    first, second = curve(tmp_path / "a"), curve(tmp_path / "b")
    assert len(first) == 3 and first == second
    assert all(status["actor_grad_norm"] > 0 and status["turns/per_episode"] > 1 for status in first.values())
