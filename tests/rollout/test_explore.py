"""Exploration while collecting: who is played otherwise, what the engine is shown, and what is stored of it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from launching import here, module

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Status, problems_of
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter
from openrlhf_agentprm.rollout.builder import Assignment, Limits
from openrlhf_agentprm.rollout.collect import play_episodes
from openrlhf_agentprm.rollout.engine import Sampling
from openrlhf_agentprm.rollout.explore import Exploration
from openrlhf_agentprm.rollout.pool import EnvPool

STEER = "count up and stop"


def flags(**given):
    defaults = dict(reset_store=None, reset_share=0.5, reset_back=1, reset_back_growth=0, steer_text=None, steer_share=0.5, iteration=0)
    return SimpleNamespace(**(defaults | given))


def nominal(count, iteration=0):
    return [
        Assignment("thirdparty_count", f"train-{n}", "train", 0, n % 3, "p", "d", {"temperature": 1.0}, iteration) for n in range(count)
    ]


@pytest.fixture
def setting(count_store):
    return next(EpisodeStore(count_store).episodes()).sampling


def test_shares_and_identities(count_store, setting):
    explore = Exploration.of(flags(reset_store=count_store, steer_text=STEER, steer_share=0.5), "thirdparty_count", "train", setting)
    plain = nominal(400)
    varied = [explore.vary(a) for a in plain]
    resets, steered = [a for a in varied if a.prefix], [a for a in varied if a.steer]
    assert 150 < len(resets) < 250 and 60 < len(steered) < 140, "half of all, and half of the others"
    assert not [a for a in resets if a.steer] and [a for a in varied if a in plain]
    assert [a.episode_id for a in varied] == [explore.vary(a).episode_id for a in plain], "another process plays the same"
    ids = {a.episode_id for a in varied}
    assert len(ids) == 400 and not ids & {a.episode_id for a in plain if explore.vary(a) != a}
    episodes = {e.episode_id: e for e in EpisodeStore(count_store).episodes()}
    for a in resets:
        source = episodes[a.sampling["reset"]["episode"]]
        assert source.status is Status.SUCCESS and len(a.prefix.turns) == len(source.turns) - 1 == a.sampling["reset"]["turns"]
        assert (a.task_id, a.seed) == (source.task_id, source.seed) and a.own_turns_only


def test_the_distance_grows_backwards_with_the_iterations(count_store, setting, tmp_path):
    for iteration, back in ((0, 1), (1, 1), (2, 2)):
        how = flags(reset_store=count_store, reset_back_growth=1, iteration=iteration)
        explore = Exploration.of(how, "thirdparty_count", "train", setting)
        assert explore.back == back and min(len(e.turns) for e in explore.sources) > back
    far = Exploration.of(flags(reset_store=count_store, reset_back=100), "thirdparty_count", "train", setting)
    assert not far.sources and [far.vary(a) for a in nominal(9)] == nominal(9), "the schedule has reached the start"
    resets = [replace(e, sampling={**e.sampling, "reset": {}}) for e in EpisodeStore(count_store).episodes()]
    with EpisodeWriter(tmp_path / "resets") as writer:
        for episode in resets:
            writer.add(episode)
    with pytest.raises(UserError, match="holds no successful episode that was played from its start"):
        Exploration.of(flags(reset_store=tmp_path / "resets"), "thirdparty_count", "train", setting)
    with pytest.raises(UserError) as raised:
        Exploration.of(flags(reset_store=count_store), "babyai", "train", {**setting, "format": "x"})
    told = "\n".join(raised.value.problems)
    assert "has episodes with env 'thirdparty_count', and 'babyai' is played" in told and "and 'x' is played" in told


def test_wrong_flags_are_told_at_once(tiny, count_store, tmp_path):
    line = ["--env.name", "thirdparty_count", "--policy.model_name_or_path", tiny, "--collect.output", tmp_path / "out"]
    wrong = [
        "--collect.reset_share", 2, "--collect.steer_share", 0.1, "--collect.turn_temperatures", 1.5, "--collect.temperature", 0.7,
        "--collect.demonstrator", "expert", "--collect.reset_back", 0,
    ]  # fmt: skip
    done = here("collect", *line, *wrong)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for text in (
        "--collect.reset_share is 2.0; wanted a share",
        "--collect.steer_share is given without --collect.steer_text",
        "--collect.reset_* is given without --collect.reset_store",
        "both say how hot actions are sampled",
        "a demonstrator plays, which samples nothing",
    ):
        assert text in done.stderr, text
    same = ["--collect.reset_store", tmp_path / "x/../out", "--collect.temperature", 2.5, "--collect.top_p", 0, "--collect.seed", -1]
    done = here("collect", *line, *same, "--collect.turn_temperatures", -1, "--collect.iteration", 1 << 31)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for flag, allowed in {
        "temperature": "0 to 2 is allowed", "top_p": "more than 0 is allowed, and at most 1", "seed": "0 to 4294967295 is allowed",
        "turn_temperatures": "0 to 2 is allowed", "iteration": "0 to 2147483647 is allowed",
    }.items():  # fmt: skip
        assert any(f"--collect.{flag}" in problem and allowed in problem for problem in done.stderr.splitlines()), (flag, done.stderr)
    assert "--collect.reset_store is --collect.output" in here("collect", *line, *same[:2]).stderr


class Recorder:
    """A real engine that also notes what it was given and what it sampled."""

    def __init__(self, engine):
        self.engine, self.given, self.sampled = engine, {}, {}

    def submit(self, request_id, token_ids, sampling, *rest):
        self.given[request_id] = (list(token_ids), sampling.temperature)
        self.engine.submit(request_id, token_ids, sampling, *rest)

    def step(self):
        found = self.engine.step()
        self.sampled |= {s.request_id: s for s in found}
        return found

    unfinished = property(lambda self: self.engine.unfinished)

    def of(self, episode):
        """By turn of the episode's task: prompt, temperature and sampled tokens."""
        mine = {r.split("-")[3]: r for r in self.given if f"-{episode.episode_id}-" in r}
        return {int(turn): (*self.given[r], self.sampled[r].token_ids) for turn, r in mine.items()}


@pytest.mark.host
def test_what_the_engine_is_shown_and_what_is_stored(tiny, count_store, setting):
    from openrlhf_agentprm.host.engine import VLLMEngine

    chat, recorder = ChatFormat(load_tokenizer(str(tiny))), Recorder(VLLMEngine(str(tiny), max_model_len=128))
    explore = Exploration.of(flags(reset_store=count_store, steer_text=STEER), "thirdparty_count", "train", setting)
    sources = {e.episode_id: e for e in explore.sources}
    hot = Sampling(1.5, by_turn=(1.5, 1.2, 1.0))
    with EnvPool("thirdparty_count", {}, 8) as pool:
        tasks = pool.tasks("train", 0, 40)
        wanted = [explore.vary(Assignment("thirdparty_count", t, "train", 0, 0, "p", "d", hot.identity())) for t in tasks]
        episodes = list(play_episodes(wanted, pool, recorder, chat, hot, Limits(4, 128, 6)))
    recorder.engine.close()
    kinds = {"reset": 0, "steer": 0, "": 0}
    for e in episodes:
        if not e.status.has_outcome:
            continue
        kind = next((name for name in ("reset", "steer") if name in e.sampling), "")
        kinds[kind] += 1
        assert problems_of(e) == []
        before = e.sampling["reset"]["turns"] if kind == "reset" else 0
        asked = recorder.of(e)
        assert sorted(asked) == list(range(before, before + len(e.turns)))
        first = chat.first(e.instruction, e.turns[0].observation)
        steered = chat.first(f"{e.instruction}\n{STEER}", e.turns[0].observation)
        for k, turn in enumerate(e.turns):
            prompt, temperature, sampled = asked[before + k]
            assert e.token_ids[turn.action_start : turn.action_end] == sampled, "the tokens are those that were sampled"
            assert temperature == (1.5, 1.2, 1.0)[min(before + k, 2)]
            stored = e.token_ids[: turn.action_start]
            assert prompt == (steered + stored[len(first) :] if kind == "steer" else stored)
        if kind == "steer":
            assert e.token_ids[: len(first)] == first and e.logprobs == [] and e.sampling["steer"] == STEER
        if kind == "reset":
            source = sources[e.sampling["reset"]["episode"]]
            cut = source.turns[before].action_start
            assert e.token_ids[:cut] == source.token_ids[:cut] and e.turns[0].action_start == cut
            assert e.turns[0].observation == source.turns[before].observation and e.task_id == source.task_id
        if kind != "steer":
            assert len(e.logprobs) == len(e.token_ids)
    assert min(kinds.values()) >= 5, kinds


@pytest.mark.host
def test_a_collection_with_resets_goes_on_and_is_labelled_but_not_completed(tiny, count_store, tmp_path):
    line = [
        "--env.name", "thirdparty_count", "--env.num_tasks", 24, "--env.max_turns", 6, "--env.num_workers", 4, "--data.max_len", 128,
        "--env.max_tokens_per_turn", 6, "--policy.model_name_or_path", tiny, "--collect.output", tmp_path / "store",
        "--collect.n_samples_per_task", 2, "--collect.reset_store", count_store,
    ]  # fmt: skip
    module("collect", *line)
    noted = json.loads((tmp_path / "store/.collect.json").read_text())
    episodes = list(EpisodeStore(tmp_path / "store").episodes())
    assert len(episodes) == 48 == noted["episodes"] and noted["reset"] == sum("reset" in e.sampling for e in episodes) > 10
    module("collect", *line)
    assert json.loads((tmp_path / "store/.collect.json").read_text())["played"] == 0 and len(EpisodeStore(tmp_path / "store")) == 48
    module("label", "--data.dataset", tmp_path / "store", "--label.name", "mc_visits", "--label.output", tmp_path / "visits")
    told = module(
        "label", "--data.dataset", tmp_path / "store", "--label.name", "mc_soft", "--label.output", tmp_path / "soft", check=False
    )
    assert told.returncode == 2 and "began on the way of another one (reset); completions want episodes from the start" in told.stderr
