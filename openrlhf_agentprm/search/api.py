"""The entry for programs: any method by its name, on an engine and a pool that the caller has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..agents.chat import ChatFormat
from ..core.errors import UserError
from ..prm.scoring import RewardModel
from ..rollout.builder import Limits
from ..rollout.engine import Engine, Sampling
from ..rollout.pool import EnvPool
from .beam import BeamSearch
from .best_of_n import BestOfN
from .lookahead import LookaheadSearch
from .mcts import MCTS
from .methods import Method, changed, parse_method, without_part
from .nodes import Scorer, SearchResult
from .options import Options
from .scorers import Pav, prm_scorer, random_scorer
from .tree import TreeSearch

KINDS: dict[str, type[TreeSearch]] = {"beam": BeamSearch, "bon": BestOfN, "lookahead": LookaheadSearch, "mcts": MCTS}


def make_search(
    method: Method,
    engine: Engine,
    pool: EnvPool,
    chat: ChatFormat,
    scorer: Scorer,
    sampling: Sampling,
    limits: Limits,
    options: Options | None = None,
) -> TreeSearch:
    """A method ready to run.

    Raises:
        UserError: an option is given that has no part in the method, or the environment has no snapshots where they are asked for.
    """
    options = options or Options()
    if useless := without_part([method], changed(options)):
        raise UserError(f"the search {method.name} takes no {', '.join(useless)}")
    return KINDS[method.kind](engine, pool, chat, scorer, sampling, limits, method, options)


def search(
    engine: Engine,
    pool: EnvPool,
    chat: ChatFormat,
    prm: RewardModel | None,
    tasks: Sequence[str],
    *,
    method: str = "2x2",
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    options: Options | None = None,
    pav: Pav | None = None,
    on_turn: Callable[[int, int], None] | None = None,
) -> list[SearchResult]:
    """Search tasks with a process reward model.

    Args:
        engine: samples actions (`host.engine.VLLMEngine`, or anything of `rollout.engine.Engine`); with `logprob_weight`, or the prior
            "logprob", one that gives log-probabilities.
        pool: plays them.
        chat: prompts and actions.
        prm: from `prm.scoring.load_reward_model`; None ranks by noise, the control.
        tasks: task ids.
        method: "N×M", "bon:N", "mcts:S" or "lookahead:N×M×D" (docs/search.md).
        sampling: of actions; temperature 0.7, as in arXiv 2511.08325, if not given.
        limits: step limit and context; the context is the engine's if not given.
        options: margins, budgets, how states are rebuilt, what MCTS is made of.
        pav: rank by PAV's effective reward.
        on_turn: told the step and the number of tasks still searched.

    Returns:
        A `SearchResult` for each task, in their order: the path, its outcome and what it cost.

    Raises:
        UserError: no such method, an option that has no part in it, scores that are no numbers, or an environment that is not replayed alike.
    """
    kind = parse_method(method)
    options = options or Options()
    if pav is not None and (prm is None or without_part([kind], ["pav_alpha"])):
        raise UserError(f"the search {kind.name} takes no PAV" if prm is not None else "PAV needs a PRM")
    scorer = random_scorer(options.seed) if prm is None else prm_scorer(prm, pav)
    limits = limits or Limits(max_tokens=engine.max_model_len)
    return make_search(kind, engine, pool, chat, scorer, sampling or Sampling(0.7), limits, options).run(tasks, on_turn)
