"""Environments as the Environments Hub has them: a module with `load_environment`, here of one world or another, played offline."""

import asyncio

import verifiers as vf
from datasets import Dataset

CLOSED = []  # what was cleaned up and torn down, in turn


def load_environment(world="sums", **options):
    return _WORLDS[world](**options)


def start(world, number=0, seed=None, args=None, **kwargs):
    """A world as it is played here, and what its reset gives."""
    from openrlhf_agentprm.envs.adapters.verifiers.env import VerifiersEnv

    env = VerifiersEnv("hub_worlds", {"world": world, **(args or {})}, **kwargs)
    return env, *env.reset(seed=seed, options={"task_id": f"hub_worlds/train/{number}"})


def add(a: int, b: int) -> int:
    """The sum of two numbers.

    Args:
        a: a number.
        b: another number.
    """
    return a + b


def divide(a: int, b: int) -> float:
    """One number divided by another."""
    return a / b


def _sums(rows=40, evals=10, **options):
    """Numbers to be added by a tool; the answer is said at the end."""

    def asked(low, count):
        return Dataset.from_list([{"question": f"What is {n} + {n * n}?", "answer": str(n + n * n)} for n in range(low, low + count)])

    def right(completion, answer):
        return float(answer in (completion[-1].content or ""))

    return vf.ToolEnv(
        tools=[add, divide],
        dataset=asked(2, rows),
        eval_dataset=asked(100, evals) if evals else None,
        system_prompt="Work with the tools.",
        rubric=vf.Rubric(funcs=[right]),
        **options,
    )


class Tidy(vf.Rubric):
    """A rubric that cleans up as well."""

    @vf.cleanup
    async def tidy(self):
        CLOSED.append("rubric")


class Guessing(vf.MultiTurnEnv):
    """A number from 1 to 20 that is told to be higher or lower; other ways to go on and to end are for the tests of what goes wrong."""

    def __init__(self, going_on="", ending="", inner=False, **options):
        self.going_on, self.ending = going_on, ending
        self.inner = Guessing(ending="inner") if inner else None
        rows = [{"prompt": [{"role": "user", "content": "Guess my number from 1 to 20."}], "answer": str(n % 20 + 1)} for n in range(30)]
        parser = vf.XMLParser(["guess"], answer_field="guess")
        super().__init__(
            dataset=Dataset.from_list(rows),
            parser=parser,
            max_turns=5,
            rubric=Tidy(funcs=[self.reward, self.broken], weights=[1, 0], parser=parser),
            **options,
        )

    def broken(self):
        raise LookupError("a metric alone, which counts for nothing")

    async def reward(self, state):
        if self.going_on == "judged":
            await self.get_model_response(state, state["prompt"])
        if self.going_on == "raises":
            raise KeyError("no such number")
        if self.going_on == "nan":
            return float("nan")
        return 1.0 if state.get("found") else 0.25 * bool(state.get("near"))

    async def setup_state(self, state):
        state["near"] = False
        return await super().setup_state(state)

    async def env_response(self, messages, state, **_):
        if self.going_on == "error":
            raise vf.InfraError("the dice are lost")
        if self.going_on == "asks":
            await self.get_model_response(state, messages)
        guess = self.parser.parse_answer([messages[-1]])
        if guess is None or not guess.isdigit():
            return [{"role": "user", "content": "Invalid guess."}]
        wanted = int(state["answer"])
        state["near"] |= abs(wanted - int(guess)) == 1
        if int(guess) == wanted:
            state["found"] = True
            state["final_env_response"] = [vf.UserMessage(content="That is it.")]
        return [vf.UserMessage(content="higher" if int(guess) < wanted else "lower")]

    async def get_prompt_messages(self, state):
        messages = await super().get_prompt_messages(state)
        return messages[-1:] if self.going_on == "forgets" and state["trajectory"] else messages

    @vf.cleanup
    async def leave(self):
        CLOSED.append("rollout")
        if self.ending == "leaves":
            raise OSError("the door is stuck")

    @vf.teardown
    async def note(self):
        CLOSED.append(self.ending or "guessing")
        if self.ending == "raises":
            raise RuntimeError("the table is stuck", asyncio.get_running_loop())
        if self.ending.isdigit():
            try:
                await asyncio.open_connection("127.0.0.1", int(self.ending))
            except OSError as error:
                CLOSED.append(str(error))


def _question(few_shot=True, network_of="", group=False, judge=False, metrics=False, called=False, **options):
    """One question, with an example before it; a reward can ask a server, be of a group, come from a judge, or be none but metrics."""
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 1}'}}
    said = {"content": None, "tool_calls": [call]} if called else {"content": "2"}
    example = [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", **said}]
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1), "info": {"n": n}} for n in range(5)]

    def right(completion, answer, info):
        return 1.0 if completion[-1].content == answer else 0.5 * (completion[-1].content == str(info["n"]))

    def longest(completions):
        return [float(len(c[-1].content)) for c in completions]

    async def asked(completion):
        import httpx

        async with httpx.AsyncClient(trust_env=False) as client:
            return float((await client.post(network_of, content=completion[-1].content)).text)

    rubric = vf.Rubric(funcs=[asked if network_of else longest if group else right], weights=[0.0 if metrics else 1.0])
    if judge:
        rubric = vf.RubricGroup([rubric, vf.JudgeRubric(judge_client=object())])
    return vf.SingleTurnEnv(
        dataset=Dataset.from_list(rows), system_prompt="Answer in a word.", few_shot=example if few_shot else None, rubric=rubric, **options
    )


class Counter(vf.StatefulToolEnv):
    """A tool with a hidden argument; it draws from Python's own generator."""

    def __init__(self, **options):
        rows = Dataset.from_list([{"question": f"Count to {n}.", "answer": str(n)} for n in range(3)])
        super().__init__(dataset=rows, rubric=vf.Rubric(funcs=[self.reached]), **options)
        self.add_tool(self.count, args_to_skip=["state"])
        self.add_tool(self.advise, args_to_skip=["state"])

    async def advise(self, state: dict) -> str:
        """Ask a model."""
        return str(await self.get_model_response(state, state["prompt"]))

    def count(self, by: int, state: dict) -> str:
        """Count on."""
        import random

        state["at"] = state.get("at", 0) + by
        return f"{state['at']} ({random.randint(0, 10**9)})"

    def update_tool_args(self, tool_name, tool_args, messages, state, **_):
        return {**tool_args, "state": state}

    def reached(self, state, answer):
        return float(state.get("at", 0) == int(answer))


def _group():
    return vf.EnvGroup([_sums(), _sums()], env_names=["one", "two"])


_WORLDS = {"sums": _sums, "guessing": Guessing, "question": _question, "counter": Counter, "group": _group}
