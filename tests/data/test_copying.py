"""Stores made of stores: what is chosen, beside a loop over episodes; joined once, whatever is interrupted."""

import random

import pytest
from launching import here

from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.copying import Choice, chosen, copy
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter


def episodes(count, seed=0):
    rng = random.Random(seed)
    for number in range(count):
        status = rng.choice(list(Status))
        turns = [Turn(f"see {k}", f"do {k}", 2 * k + 1, 2 * k + 2, 0.5 * k) for k in range(rng.randrange(1, 6))]
        yield Episode(
            env=rng.choice(("a", "b")), task_id=f"t{rng.randrange(7)}", split=rng.choice(("train", "test")), seed=0, sample=number + 1000 * seed,
            policy="p", policy_digest="d", sampling={"temperature": 1.0}, status=status, outcome=rng.choice((0.0, 0.3, 1.0)),
            terminated=True, truncated=False, token_ids=list(range(12)), turns=turns, iteration=rng.randrange(3),
        )  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """One of several shards, one that its writer has left in its journal."""
    folder = tmp_path_factory.mktemp("copying")
    with EpisodeWriter(folder / "one", shard_size=64) as writer:
        for episode in episodes(300):
            writer.add(episode)
    writer = EpisodeWriter(folder / "two")
    for episode in [*episodes(40, seed=1), *list(episodes(5))]:
        writer.add(episode)
    yield folder / "one", folder / "two"
    writer.close()


def wanted(choice, episode):
    turns = len(episode.turns)
    return (
        choice.status in (None, episode.status.value)
        and choice.task in (None, episode.task_id)
        and choice.iteration in (None, episode.iteration)
        and choice.split in (None, episode.split)
        and choice.env in (None, episode.env)
        and (choice.min_outcome is None or (episode.status.has_outcome and episode.outcome >= choice.min_outcome - 1e-7))
        and turns >= (choice.min_turns or 0)
        and turns <= (choice.max_turns or 99)
    )


CHOICES = [
    Choice(), Choice(status="success"), Choice(task="t3", split="test"), Choice(env="b", iteration=0), Choice(min_outcome=0.3),
    Choice(min_turns=2, max_turns=3), Choice(status="failure", min_outcome=1.0, env="a"),
]  # fmt: skip


@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_chosen_is_what_a_loop_over_episodes_chooses(choice, stores):
    store = EpisodeStore(f"{stores[0]},{stores[1]}")
    found = [row["episode_id"] for batch in chosen(store, choice) for row in batch.to_pylist()]
    assert found == [e.episode_id for e in store.episodes() if wanted(choice, e)] and found and len(set(found)) == len(found)


def test_some_of_each_task_are_the_same_ones_in_any_order(stores):
    def taken(path, seed=0):
        return {row["episode_id"] for b in chosen(EpisodeStore(path), Choice(env="a", per_task=4, seed=seed)) for row in b.to_pylist()}

    one, two = stores
    found = taken(f"{one},{two}")
    by_task = {}
    for episode in EpisodeStore(f"{one},{two}").episodes():
        if episode.env == "a":
            by_task.setdefault(episode.task_id, set()).add(episode.episode_id)
    assert all(len(found & ids) == min(4, len(ids)) for ids in by_task.values()) and len(found) == sum(
        min(4, len(i)) for i in by_task.values()
    )
    assert taken(f"{two},{one}") == found != taken(f"{one},{two}", seed=1)


def test_a_copy_has_every_episode_once_and_whole_and_the_same_command_adds_nothing(stores, tmp_path):
    one, two = stores
    store, out = EpisodeStore(f"{one},{two}"), str(tmp_path / "out")
    assert copy(store, out, Choice(), shard_size=100) == {"added": 340, "there": 0}
    assert sorted(EpisodeStore(out).rows(), key=lambda row: row["episode_id"]) == sorted(store.rows(), key=lambda row: row["episode_id"])
    assert len(EpisodeStore(out).shards()) == 3, "of 128, 128 and 84 rows: small shards are joined"
    assert copy(store, out, Choice()) == {"added": 0, "there": 340}
    with EpisodeWriter(out) as writer:  # a store as any other
        assert not writer.add(next(episodes(1))) and writer.add(next(episodes(1, seed=2)))
    assert len(EpisodeStore(out)) == 341


def test_what_makes_no_store_is_told(stores, tmp_path):
    one, two = stores
    with pytest.raises(UserError, match="is read and written"):
        copy(EpisodeStore(f"{one},{two}"), str(one), Choice())
    with pytest.raises(UserError, match="no episode of .* is chosen"):
        copy(EpisodeStore(one), str(tmp_path / "out"), Choice(task="none"))
    assert not (tmp_path / "out").exists()


def test_the_command_copies_and_counts(stores, tmp_path):
    one, _ = stores
    done = here("episodes", "copy", one, tmp_path / "won", "--status", "success", "--max_turns", 3)
    assert done.returncode == 0 and "episodes added to" in done.stdout, done.stderr
    assert {e.status for e in EpisodeStore(tmp_path / "won").episodes()} == {Status.SUCCESS}
    stats = here("episodes", "stats", tmp_path / "won").stdout
    count = len(EpisodeStore(tmp_path / "won"))
    assert f"{count} episodes of 7 tasks" in stats and f"success {count}" in stats
    assert here("episodes", "stats", one, tmp_path / "x").returncode == 2
    unread = here("episodes", "copy", one, tmp_path / "y", "--id", "ab", "--format", "messages")
    assert unread.returncode == 2 and "copy does not read --id" in unread.stderr and "copy does not read --format" in unread.stderr
    assert "stats does not read --status" in here("episodes", "stats", one, "--status", "success").stderr and not (tmp_path / "y").exists()
