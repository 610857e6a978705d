"""Behind the same curve for the same seed, which tests/host/test_ppo_estimators.py shows: seeds, and the order of a batch."""

from types import SimpleNamespace

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
