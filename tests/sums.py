"""A tiny policy and demonstrations for chains of sums, made in this process."""

from openrlhf_agentprm.agents.chat import ChatFormat, load_tokenizer
from openrlhf_agentprm.agents.tiny import make_model, make_tokenizer, save_policy
from openrlhf_agentprm.data.store import EpisodeStore, EpisodeWriter
from openrlhf_agentprm.envs.arithmetic import INSTRUCTION
from openrlhf_agentprm.rollout.builder import Assignment, Limits
from openrlhf_agentprm.rollout.demonstrate import demonstrate
from openrlhf_agentprm.rollout.digest import text_digest
from openrlhf_agentprm.rollout.pool import EnvPool

TERMS = {"terms": 4}  # three steps an answer
LENGTH = 96


def make_policy(folder):
    """A random model whose vocabulary is that of the sums: END, a semicolon, signs and digits are one token each."""
    tokenizer = make_tokenizer([INSTRUCTION, "0 1 2 3 4 5 6 7 8 9 + - = ; ?"])
    save_policy(make_model(tokenizer, layers=2), tokenizer, folder)
    return folder


def make_store(folder, policy, tasks, samples=4, noise=0.3):
    """Demonstrations with slips, as `cli.collect --collect.demonstrator slips` notes them."""
    chat = ChatFormat(load_tokenizer(str(policy)))
    how = {"noise": noise, "max_turns": 1, "max_len": LENGTH, "max_tokens_per_turn": 40, "env_args": TERMS}
    how["format"] = text_digest(chat.identity())
    with EnvPool("arithmetic", TERMS, 2) as pool, EpisodeWriter(folder) as writer:
        who = ("slips", f"slips-{noise:g}", how)
        wanted = [Assignment("arithmetic", t, "train", s, s, *who) for t in pool.tasks("train", 0, tasks) for s in range(samples)]
        for episode in demonstrate(wanted, pool, chat, Limits(1, LENGTH, 40), demonstrator="slips", noise=noise):
            writer.add(episode)
    return EpisodeStore(folder)


def semicolon(chat_or_tokenizer):
    """The delimiter of the sums, by its id."""
    tokenizer = getattr(chat_or_tokenizer, "tokenizer", chat_or_tokenizer)
    return ((tokenizer.convert_tokens_to_ids(";"),),)


def right_so_far(episode):
    """Of every step of a response, whether the result that it comes to is what the question's terms up to there come to."""
    import re

    terms = [int(term) for term in re.findall(r"[+-]?\d", episode.task_id)]
    came = [int(step.replace(" ", "").partition("=")[2]) for step in episode.turns[0].action.split(";")]
    return [result == sum(terms[: k + 2]) for k, result in enumerate(came)]
