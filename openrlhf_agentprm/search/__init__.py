"""Search at test time, guided by a process reward model: best-of-N, greedy by Q, beams, look-ahead, Monte-Carlo tree search.

    from openrlhf_agentprm.search import Options, search

    results = search(engine, pool, chat, prm, tasks, method="2x2", options=Options(policy_margin=0.05))

Each method is a module: `beam`, `best_of_n`, `lookahead`, `mcts`; what they share is in `tree`, `states` and `choice`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import search
    from .budget import Budget
    from .nodes import SearchResult
    from .options import Options
    from .scorers import Pav

__all__ = ["Budget", "Options", "Pav", "SearchResult", "search"]


def __getattr__(name: str) -> Any:
    """Import when used: parsing a command line needs no torch."""
    from importlib import import_module

    homes = {"search": "api", "Budget": "budget", "SearchResult": "nodes", "Options": "options", "Pav": "scorers"}
    if name not in homes:
        raise AttributeError(name)
    return getattr(import_module(f".{homes[name]}", __name__), name)
