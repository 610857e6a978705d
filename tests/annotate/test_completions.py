"""Labels from completions: numbers by hand, a game whose values are known, what survives a kill, and the real engine."""

import json
import math

import pytest
from engines import TableEngine
from launching import module

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.annotate.completer import Completer
from openrlhf_agentprm.annotate.completions import StoreStates
from openrlhf_agentprm.annotate.montecarlo import er, mc_hard, mc_soft, rpe
from openrlhf_agentprm.annotate.omega import omega
from openrlhf_agentprm.cli import label
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Episode, Status, Turn
from openrlhf_agentprm.data.sidecar import read_about, read_labels
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter
from openrlhf_agentprm.rollout.builder import Assignment, Limits
from openrlhf_agentprm.rollout.collect import play_episodes
from openrlhf_agentprm.rollout.engine import Sampling
from openrlhf_agentprm.rollout.pool import EnvPool


def episode(sample, actions, outcome):
    """A prompt of two tokens, then one token for each action and one for each observation."""
    tokens, turns = [1, 2], []
    for action in actions:
        turns.append(Turn("o", str(action), len(tokens), len(tokens) + 1))
        tokens += [action, 3]
    return Episode(
        env="e", task_id="t", split="train", seed=0, sample=sample, policy="p", policy_digest="d", sampling={},
        status=Status.SUCCESS if outcome else Status.FAILURE, outcome=outcome, terminated=True, truncated=False,
        token_ids=tokens[:-1], turns=turns,
    )  # fmt: skip


class Table:
    """Completions whose outcomes are given, by the state's actions."""

    cost = {"sampled_tokens": 5}

    def __init__(self, outcomes):
        self.outcomes, self.asked = outcomes, []

    def __call__(self, states, samples):
        self.asked += [tuple(int(turn.action) for turn in state.prefix.turns) for state in states]
        return {s.key: self.outcomes[path][:samples] for s, path in zip(states, self.asked, strict=True)}


@pytest.fixture
def made(tmp_path):
    """Three samples begin with 7; two go on with 8, and one of those with 9."""
    a = [episode(0, [7, 8, 9], 1.0), episode(1, [7, 8], 0.0), episode(2, [6], 0.0)]
    with EpisodeWriter(tmp_path / "store") as writer:
        for e in a:
            writer.add(e)
    return EpisodeStore(tmp_path / "store"), a


def targets(sidecar, episodes, tmp_path):
    sidecar.save(tmp_path / "labels", {})
    found = read_labels(tmp_path / "labels")
    return [found.get(e.episode_id, ([], []))[0] for e in episodes]


def test_targets_by_hand_and_equal_states_are_asked_once(made, tmp_path):
    store, a = made
    table = Table({(7,): [1.0, 1.0, 0.0, 0.0], (7, 8): [1.0, 0.0, 0.0, 0.0], (): [1.0, 1.0, 1.0, 0.0]})
    sidecar = mc_soft.annotate(store, complete=table, samples=4)
    assert targets(sidecar, a, tmp_path) == [[0.5, 0.25, 1.0], [0.5, 0.0], [0.0]]
    assert sorted(table.asked) == [(7,), (7, 8)] and sidecar.cost == {"sampled_tokens": 5} and sidecar.figures["states"] == 2
    assert targets(mc_hard.annotate(store, complete=Table(table.outcomes), samples=4), a, tmp_path) == [[1.0, 1.0, 1.0], [1.0, 0.0], [0.0]]
    entropic = targets(er.annotate(store, complete=Table(table.outcomes), samples=4, eta=1.0), a, tmp_path)
    assert entropic[0] == pytest.approx([math.log((2 * math.e + 2) / 4), math.log((math.e + 3) / 4), 1.0])
    # V = 0.75, 0.5, 0.25: 0.5 keeps 67 % of 0.75, 0.25 keeps half of 0.5, and success gains
    table = Table(table.outcomes)
    assert targets(rpe.annotate(store, complete=table, samples=4, threshold=0.6), a, tmp_path) == [[1.0, 0.0, 1.0], [1.0, 0.0], [0.0]]
    assert () in table.asked


def test_a_state_without_an_outcome_has_no_label(made, tmp_path):
    store, a = made
    sidecar = mc_soft.annotate(store, complete=Table({(7,): [], (7, 8): [1.0]}), samples=4)
    first = targets(sidecar, a, tmp_path)[0]
    assert math.isnan(first[0]) and first[1:] == [1.0, 1.0] and sidecar.figures["states_without_outcome"] == 1


@pytest.mark.parametrize(("method", "options"), [(mc_soft, {"samples": 0}), (er, {"eta": -1.0}), (rpe, {"threshold": 0.0})])
def test_bad_options_are_told(made, method, options):
    with pytest.raises(UserError, match=f"{next(iter(options))} is"):
        method.annotate(made[0], complete=Table({}), **options)


@pytest.fixture(scope="module")
def chat(tiny):
    return ChatFormat(load_tokenizer(str(tiny)))


class Game:
    """The counting game by a fair coin: from u with the goal g, "up" g − u times and then "stop" has the chance 2^−(g − u + 1)."""

    def __init__(self, chat, pool, stop_after=None):
        self.chat, self.pool, self.stop_after = chat, pool, stop_after

    def play(self, missing):
        limits = Limits(8, 128, 4)
        for n, done in enumerate(play_episodes(missing, self.pool, TableEngine(self.chat), self.chat, Sampling(), limits)):
            if n == self.stop_after:
                raise KeyboardInterrupt
            yield done

    def store(self, folder, count):
        a = [Assignment(self.pool.name, t, "train", 0, s, "coin", "d", {}) for t in self.pool.tasks("train", 0, count) for s in range(4)]
        with EpisodeWriter(folder) as writer:
            for done in self.play(a):
                writer.add(done)
        return EpisodeStore(folder)

    def completer(self, folder, **changes):
        return Completer(folder, self.play, **{"policy": "coin", "policy_digest": "d", "sampling": {}, "seed": 0} | changes)


def test_soft_labels_are_the_games_true_values(chat, tmp_path):
    with EnvPool("thirdparty_count", {}, 8) as pool:
        game = Game(chat, pool)
        store = game.store(tmp_path / "store", 6)
        complete = game.completer(tmp_path / "completions")
        found = targets(mc_soft.annotate(store, complete=complete, samples=200), list(store.episodes()), tmp_path)
    checked = 0
    for e, own in zip(store.episodes(), found, strict=True):
        goal, ups = int(e.instruction[-1]), 0
        for turn, value in zip(e.turns[:-1], own, strict=False):
            ups += turn.action == "up"
            assert value == pytest.approx(0.5 ** (goal - ups + 1) if ups <= goal else 0.0, abs=0.15)  # four standard deviations of 200
            checked += 1
        assert own[-1] == e.outcome
    assert checked >= 5
    for done in EpisodeStore(tmp_path / "completions").episodes():  # a completion is an episode that begins as the one it goes on from
        state = next(s for _, path in StoreStates.of(store).paths for s in path if s.key == done.sampling["from"])
        assert tuple(done.token_ids[: len(state.prefix.token_ids)]) == state.prefix.token_ids
        assert [t.action for t in done.turns[: state.turns]] == [t.action for t in state.prefix.turns]
        assert (done.task_id, done.seed) == (state.episode.task_id, state.episode.seed) and len(done.turns) > state.turns


def test_a_killed_completion_goes_on_with_nothing_lost_and_nothing_twice(chat, tmp_path):
    with EnvPool("thirdparty_count", {}, 8) as pool:
        game = Game(chat, pool)
        store = game.store(tmp_path / "store", 6)
        game.stop_after = 10
        with pytest.raises(KeyboardInterrupt):
            mc_soft.annotate(store, complete=game.completer(tmp_path / "completions"), samples=8)
    before = {e.episode_id: e.token_ids for e in EpisodeStore(tmp_path / "completions").episodes()}
    assert len(before) == 10
    with EnvPool("thirdparty_count", {}, 8) as pool:  # what was killed left its workers in the middle of something
        game = Game(chat, pool)
        complete = game.completer(tmp_path / "completions")
        first = mc_soft.annotate(store, complete=complete, samples=8)
        after = {e.episode_id: e.token_ids for e in EpisodeStore(tmp_path / "completions").episodes()}
        assert len(after) == 8 * first.figures["states"] == first.cost["completions"]
        assert all(after[name] == tokens for name, tokens in before.items())
        game.stop_after = 0  # whatever is played from here on would break
        again = game.completer(tmp_path / "completions")
        second = mc_soft.annotate(store, complete=again, samples=8)
        assert second.rows == first.rows and second.cost == first.cost
        assert first.cost["sampled_tokens"] > 0 and first.cost["environment_steps"] > first.cost["completions"]
        for method, wrong in ((mc_soft, {"samples": "8"}), (er, {"eta": "Infinity"}), (rpe, {"threshold": None})):
            with pytest.raises(UserError, match="wanted a"):
                method.annotate(store, complete=again, **wrong)
        assert (
            complete(StoreStates.of(store).distinct(starts=False), 8).keys()
            == again(StoreStates.of(store).distinct(starts=False), 8).keys()
        )
        assert complete.cost == first.cost  # asked twice costs once
        with pytest.raises(KeyboardInterrupt):  # another policy's are not taken for them
            mc_soft.annotate(store, complete=game.completer(tmp_path / "completions", policy_digest="other"), samples=8)


def test_a_killed_search_goes_on_to_the_same_turn(chat, tmp_path):
    with EnvPool("thirdparty_count", {}, 8) as pool:
        game = Game(chat, pool)
        store = game.store(tmp_path / "store", 6)
        game.stop_after = 10
        with pytest.raises(KeyboardInterrupt):
            omega.annotate(store, complete=game.completer(tmp_path / "completions"), samples=16)
    assert len(EpisodeStore(tmp_path / "completions")) == 10
    with EnvPool("thirdparty_count", {}, 8) as pool:
        game = Game(chat, pool)
        first = omega.annotate(store, complete=game.completer(tmp_path / "completions"), samples=16)
        assert first.cost["completions"] == 16 * first.figures["states_completed"] == len(EpisodeStore(tmp_path / "completions"))
        game.stop_after = 0  # whatever is played from here on would break
        second = omega.annotate(store, complete=game.completer(tmp_path / "completions"), samples=16)
        assert repr(second.rows.to_pylist()) == repr(first.rows.to_pylist())  # a turn without a label is NaN, which equals nothing
        assert second.cost == first.cost
        assert first.figures["failed_episodes"] > 0


def test_an_environment_that_replays_differently_is_an_error(chat, tmp_path):
    with EnvPool("thirdparty_moody", {}, 4) as pool:
        game = Game(chat, pool)
        store = game.store(tmp_path / "store", 3)
        with pytest.raises(UserError, match="not replayed alike.*it showed 'at 0.*now shows 'at 0.*going on from a state needs"):
            mc_soft.annotate(store, complete=game.completer(tmp_path / "completions"), samples=2)


def test_what_no_completion_can_come_of_is_refused(tiny, count_store, tmp_path):
    policy = ["--policy.model_name_or_path", tiny]
    cases = {
        "say who completes": ["mc_soft"],
        "is the store that is labelled": ["mc_soft", *policy, "--completions.store", count_store],
        "another prompt format": ["mc_soft", *policy, "--env.action_format", "react"],
        "--policy.model_name_or_path is given, but --label.name qlass plays no completions": ["qlass", *policy],
    }
    for told, (name, *flags) in cases.items():
        line = ["--data.dataset", count_store, "--label.output", tmp_path / "none", "--label.name", name, *flags]
        with pytest.raises(UserError, match=told):
            label.main([str(word) for word in line])
    assert not (tmp_path / "none").exists()


@pytest.mark.host
def test_labels_by_the_real_engine_here_and_by_ray(tiny, count_store, tmp_path):
    line = ["--data.dataset", count_store, "--policy.model_name_or_path", tiny, "--env.num_workers", 8]
    line += ["--completions.store", tmp_path / "completions", "--label.options", '{"samples": 2}']
    module("label", *line, "--label.name", "mc_soft", "--label.output", tmp_path / "soft", "--completions.num_engines", 2)
    about = read_about(tmp_path / "soft")
    figures = about["figures"]  # a random policy fills the context from some states each time
    assert figures["turns"] > figures["labelled"] > 0.5 * figures["turns"] and figures["states_without_outcome"] > 0
    assert about["cost"]["sampled_tokens"] > 0 and about["cost"]["completions"] == 2 * figures["states"]
    done = module("label", *line, "--label.name", "omega", "--label.output", tmp_path / "omega")  # a few of the same completions
    assert "completions" in done.stdout and len(EpisodeStore(tmp_path / "completions")) == about["cost"]["completions"]
    found = read_about(tmp_path / "omega")
    assert 0 < found["figures"]["states_completed"] < figures["states"] and found["figures"]["most_states_of_an_episode"] <= 3  # of 6 turns
    assert (
        0 < found["cost"]["completions"] < about["cost"]["completions"]
        and 0 < found["cost"]["sampled_tokens"] < about["cost"]["sampled_tokens"]
    )
    extra = ["--label.options", json.dumps({"samples": 3, "q": str(tmp_path / "soft")})]
    module(
        "label", *line[:-2], *extra, "--label.name", "shaped", "--label.output", tmp_path / "shaped"
    )  # one more of each, and of the starts
    assert len(EpisodeStore(tmp_path / "completions")) == 3 * read_about(tmp_path / "shaped")["figures"]["states"] > 3 * figures["states"]
