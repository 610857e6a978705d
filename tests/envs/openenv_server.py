"""Two environments behind openenv-core's own server: `python openenv_server.py PORT SESSIONS`; /guess and /desk."""

import random
import sys
import time

import uvicorn
from fastapi import FastAPI
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from pydantic import BaseModel, Field


class Guess(Action):
    number: int = Field(ge=0)


class Hint(Observation):
    hint: str


class Guessing(Environment):
    """A number from 0 to 15 by the seed, five guesses; a step behind the end goes on, as the protocol lets it."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, **kwargs):
        self.secret, self.turn = random.Random(seed).randint(0, 15), 0
        return Hint(hint="Guess a number from 0 to 15.")

    def step(self, action, timeout_s=None, **kwargs):
        self.turn += 1
        hint = "right" if action.number == self.secret else "higher" if action.number < self.secret else "lower"
        return Hint(hint=hint, reward=float(hint == "right"), done=hint == "right" or self.turn >= 5)

    @property
    def state(self):
        return State(step_count=self.turn)


class Call(Action):
    tool: str
    text: str


class Screen(BaseModel):
    text: str
    lines: list[str] = []


class View(Observation):
    screen: Screen


class Desk(Environment):
    """Tools by name, some of which misbehave."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, level=0, size="small", **kwargs):
        self.level, self.written = level, []
        return View(screen=Screen(text=f"A {size} desk of level {level}."))

    def step(self, action, timeout_s=None, **kwargs):
        if action.tool == "wait":
            time.sleep(float(action.text))
        if action.tool == "break":
            raise RuntimeError("the desk broke")
        if action.tool == "pile":
            return View(screen=Screen(text="x" * int(action.text)), done=False)
        if action.tool != "write":
            return View(screen=Screen(text="There is no such tool."), reward=None)
        self.written.append(action.text)
        return View(screen=Screen(text=f"wrote {action.text}", lines=self.written), done=len(self.written) > self.level, reward=0.5)

    @property
    def state(self):
        return State(step_count=len(self.written))


if __name__ == "__main__":
    app = FastAPI()
    app.mount("/guess", create_fastapi_app(Guessing, Guess, Hint, max_concurrent_envs=int(sys.argv[2])))
    app.mount("/desk", create_fastapi_app(Desk, Call, View, max_concurrent_envs=int(sys.argv[2])))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
