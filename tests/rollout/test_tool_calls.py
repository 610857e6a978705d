"""Tool calls from environment to tokens: tools in the prompt, calls and results in the template's own form; rules for invalid actions."""

import pytest
from real_templates import tokenizer_of

from openrlhf_agentprm.agents.chat import ChatFormat
from openrlhf_agentprm.core.errors import UserError
from openrlhf_agentprm.data.episode import Status, problems_of
from openrlhf_agentprm.rollout.builder import Assignment, EpisodeBuilder, Limits
from openrlhf_agentprm.rollout.config import EnvConfig
from openrlhf_agentprm.rollout.demonstrate import demonstrate
from openrlhf_agentprm.rollout.pool import EnvPool
from openrlhf_agentprm.rollout.prefix import prefix_of
from openrlhf_agentprm.rollout.retell import retell


@pytest.fixture(scope="module")
def pool():
    with EnvPool("tools_arithmetic", {}, 2) as pool:
        yield pool


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer_of("qwen2_5").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def chat(policy):
    return EnvConfig("tools_arithmetic", action_format="tool_call").chat(policy)


def assignment(pool, task=0):
    return Assignment(pool.name, pool.tasks("train", task, 1)[0], "train", 0, 0, "p", "d", {})


def test_an_experts_episode_is_the_templates_own_conversation(pool, chat):
    episodes = list(demonstrate([assignment(pool, task) for task in range(4)], pool, chat, Limits(20, 10_000)))
    assert {e.status for e in episodes} == {Status.SUCCESS} and {len(e.turns) for e in episodes} == {6}
    for episode in episodes:
        assert problems_of(episode) == []
        messages = [{"role": "user", "content": f"{episode.instruction}\n{episode.turns[0].observation}"}]
        for turn in episode.turns:
            call = chat.parse.read(turn.action)
            function = {"name": call.name, "arguments": call.arguments}
            messages.append({"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]})
            if turn is not episode.turns[-1]:
                messages.append({"role": "tool", "content": episode.turns[episode.turns.index(turn) + 1].observation})
        text = chat.tokenizer.apply_chat_template(messages, tools=pool.description["tools"], tokenize=False)
        assert chat.tokenizer.encode(text)[: len(episode.token_ids)] == episode.token_ids
        assert '"name": "submit_answer"' in text.partition("<|im_end|>")[0], "the tools stand in the system message"


@pytest.mark.parametrize("name", ["qwen2_5", "mistral_v3", "mistral_v3_tekken", "gpt_oss"])
def test_an_episode_told_again_has_the_same_tokens(pool, name):
    """Its stored texts hold the special tokens of its calls."""
    chat = ChatFormat(tokenizer_of(name), action_format="tool_call", tools=pool.description["tools"], history="as_sampled")
    (episode,) = demonstrate([assignment(pool)], pool, chat, Limits(20, 10_000))
    again = retell(episode, {}, chat, 10_000, [turn.action for turn in episode.turns])
    assert again.token_ids == episode.token_ids and again.status is episode.status is Status.SUCCESS


def test_a_turn_without_a_call_is_answered_by_the_user(pool, chat):
    builder = EpisodeBuilder(assignment(pool), chat, Limits(20, 10_000))
    builder.begin(pool.call(0, builder.request()))
    for text, role in (
        ("I wonder.", "user\nNo tool was called"),
        ('<tool_call>{"name": "add"}</tool_call>', "user\n<tool_response>\nadd takes"),
    ):
        action = builder.act([*chat.tokenizer.encode(text), chat.end_token_id], [])
        before = len(builder.token_ids)
        builder.observe(pool.call(0, {"do": "step", "action": action}))
        assert chat.tokenizer.decode(builder.token_ids[before:]).startswith(f"\n<|im_start|>{role}")
    assert [turn.valid_action for turn in builder.turns] == [False, False]


def test_an_episode_goes_on_from_a_state_of_another(pool, chat):
    """What was sampled is kept as text with its marks, so that the same call is read from it again."""
    (source,) = demonstrate([assignment(pool)], pool, chat, Limits(20, 10_000))
    prefix = prefix_of(source, 3)
    builder = EpisodeBuilder(Assignment(pool.name, source.task_id, "train", 0, 0, "p", "d", {}, prefix=prefix), chat, Limits(20, 10_000))
    builder.resume(pool.call(0, builder.request()))
    assert builder.token_ids == source.token_ids[: source.turns[3].action_start] and len(builder.turns) == 3


@pytest.mark.parametrize("rule, penalty, rewards, status", [
    ("message", 0.0, [0.0, 0.0], Status.TRUNCATED),
    ("penalty", 0.25, [-0.25, -0.25], Status.TRUNCATED),
    ("end", 0.5, [-0.5], Status.FAILURE),
    ("end", 0.0, [0.0], Status.FAILURE),
])  # fmt: skip
def test_invalid_actions_by_rule(pool, chat, rule, penalty, rewards, status):
    config = EnvConfig("tools_arithmetic", max_turns=2, invalid_action=rule, invalid_penalty=penalty)
    builder = EpisodeBuilder(assignment(pool), chat, config.limits(10_000))
    builder.begin(pool.call(0, builder.request()))
    while not builder.finished:
        action = builder.act([*chat.tokenizer.encode("no"), chat.end_token_id], [])
        builder.observe(pool.call(0, {"do": "step", "action": action}))
    episode = builder.episode()
    assert [t.reward for t in episode.turns] == rewards and not any(t.valid_action for t in episode.turns)
    assert (episode.status, episode.terminated, episode.outcome) == (status, rule == "end", 0.0)


def test_valid_actions_and_what_ended_by_itself_are_left_alone():
    limits = Limits(invalid_action="end", invalid_penalty=1.0)
    going = {"reward": 0.5, "valid_action": True, "terminated": False, "truncated": False, "success": False, "outcome": None}
    assert limits.ruled(going) == going
    ended = going | {"valid_action": False, "terminated": True, "success": True}
    assert limits.ruled(ended) == ended | {"reward": -0.5}, "the environment's own end stands"
    cut = going | {"valid_action": False, "truncated": True}
    assert limits.ruled(cut) == cut | {"reward": -0.5, "terminated": True, "truncated": False}


def test_the_rule_is_part_of_what_is_completed():
    played = {"env_args": {}, "max_turns": 3, "max_tokens_per_turn": None}
    ruled = EnvConfig("e", invalid_action="penalty", invalid_penalty=0.5)
    assert EnvConfig("e").rules() == {} and EnvConfig("e").played_as(played | ruled.rules(), "train").limits(9).invalid_penalty == 0.5
    assert ruled.played_as(played, "train").limits(9).invalid_action == "message"


def test_an_environment_without_tools_is_refused(policy):
    with pytest.raises(UserError, match=r"needs an environment with tools\(\); 'arithmetic' has none"):
        EnvConfig("arithmetic", action_format="tool_call").chat(policy)
    with pytest.raises(UserError, match="needs an environment, whose tools the prompts tell of"):
        EnvConfig("", action_format="tool_call").chat(policy)
