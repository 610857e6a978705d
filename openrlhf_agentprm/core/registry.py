"""Four registries, one mechanism: a name stands for `"module:attribute"`, imported when it is used.

Anybody's package adds to a registry with an entry point, in `pyproject.toml`:

    [project.entry-points."openrlhf_agentprm.envs"]
    my_env = "my_package.my_module:MyEnv"

Installed metadata is read by every process, so the name works in the driver, in each Ray worker and in vLLM's processes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from .errors import UserError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One registered name and the distribution that brought it."""

    name: str
    target: str
    distribution: str


class Registry:
    """Names to lazily imported objects; listing imports none of them.

    Args:
        kind: what an entry is, for messages ("environment").
        group: entry-point group that third parties add to.
        builtin: our own names.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)

    def entries(self) -> list[Entry]:
        """Every entry, ours first, a clashing name once for each distribution."""
        found = [Entry(name, target, "openrlhf-agentprm") for name, target in sorted(self._builtin.items())]
        for point in sorted(metadata.entry_points(group=self.group), key=lambda p: p.name):
            distribution = point.dist.name if point.dist else "an unknown distribution"
            found.append(Entry(point.name, point.value, distribution))
        return found

    def names(self) -> list[str]:
        return sorted({entry.name for entry in self.entries()})

    def load(self, name: str) -> Any:
        """Import what `name` stands for.

        Raises:
            UserError: unknown name, a name claimed by two distributions, or an entry that fails to import.
        """
        matches = {(e.target, e.distribution): e for e in self.entries() if e.name == name}
        if not matches:
            allowed = self.names()
            raise UserError(f"unknown {self.kind} {name!r}{did_you_mean(name, allowed)} (known: {', '.join(allowed)})")
        if len(matches) > 1:
            claims = ", ".join(f"{e.distribution} ({e.target})" for e in matches.values())
            raise UserError(f"{self.kind} {name!r} is registered more than once: {claims}; uninstall or rename all but one")
        return _import(self.kind, next(iter(matches.values())))


def _import(kind: str, entry: Entry) -> Any:
    module_name, _, attribute = entry.target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{kind} {entry.name!r} of the distribution {entry.distribution} could not be loaded from {entry.target!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return found


_HERE = "openrlhf_agentprm"

ENVS = Registry(
    "environment",
    f"{_HERE}.envs",
    {
        "babyai": f"{_HERE}.envs.babyai.env:BabyAIEnv",
        "alfworld": f"{_HERE}.envs.alfworld.env:AlfworldEnv",
        "arithmetic": f"{_HERE}.envs.arithmetic:ArithmeticEnv",
        "mixture": f"{_HERE}.envs.mixture:MixtureEnv",
        "tools_arithmetic": f"{_HERE}.envs.tools_arithmetic:ToolsArithmeticEnv",
        "textcraft": f"{_HERE}.envs.textcraft.env:TextCraftEnv",
        "scienceworld": f"{_HERE}.envs.scienceworld.env:ScienceWorldEnv",
        "textworld": f"{_HERE}.envs.textworld.env:TextWorldEnv",
        "gymnasium": f"{_HERE}.envs.gym_text:GymTextEnv",
        "agentgym": f"{_HERE}.envs.agentgym.env:make",
        "gem": f"{_HERE}.envs.adapters.gem:GemEnv",
        "openenv": f"{_HERE}.envs.adapters.openenv:OpenEnvEnv",
        "reasoning_gym": f"{_HERE}.envs.adapters.reasoning_gym:ReasoningGymEnv",
        "textarena": f"{_HERE}.envs.adapters.textarena:TextArenaEnv",
        "verifiers": f"{_HERE}.envs.adapters.verifiers.env:VerifiersEnv",
    },
)
LABELS = Registry(
    "label",
    f"{_HERE}.labels",
    {name: f"{_HERE}.core.labels:{name}" for name in ("td_gae", "td_qv", "outcome_all", "outcome_last")}
    | {name: f"{_HERE}.annotate.visits:{name}" for name in ("mc_visits", "qlass")}
    | {name: f"{_HERE}.annotate.montecarlo:{name}" for name in ("mc_soft", "mc_hard", "er", "rpe", "shaped")}
    | {name: f"{_HERE}.annotate.judged:{name}" for name in ("autopsv", "consensus")}
    | {name: f"{_HERE}.annotate.{module}:{name}" for name, module in (("omega", "omega"), ("rest_mcts", "rest"), ("relabel", "relabel"))}
    | {"next_actions": f"{_HERE}.annotate.next_actions:next_actions"}
    | {name: f"{_HERE}.annotate.chosen:{name}" for name in ("best_episodes", "good_turns", "ranked_pairs")},
)
ADVANTAGES = Registry(
    "advantage estimator",
    f"{_HERE}.advantages",
    {
        name: f"{_HERE}.core.estimators.{module}:{name}"
        for module, names in {
            "gae": ("turn_gae", "token_gae", "bi_level"),
            "turns": ("progress", "pav", "gigpo"),
            "outcome": ("outcome", "implicit"),
            "returns": ("promise", "min_form", "clip", "delta", "clip_delta", "spa", "potential"),
        }.items()
        for name in names
    },
)
REWARD_MODELS = Registry(
    "reward model",
    f"{_HERE}.reward_models",
    {
        "scalar": f"{_HERE}.prm.scoring:ScalarPRM",
        "two_head": f"{_HERE}.prm.kinds.two_head:TwoHeadPRM",
        "spa": f"{_HERE}.prm.kinds.spa:SpaPRM",
        "trajectory": f"{_HERE}.prm.kinds.trajectory:TrajectoryPRM",
        "hierarchical": f"{_HERE}.prm.kinds.hierarchical:HierarchicalPRM",
        "heads": f"{_HERE}.prm.kinds.heads:HeadsPRM",
        "ensemble": f"{_HERE}.prm.kinds.ensemble:EnsemblePRM",
        "implicit": f"{_HERE}.prm.kinds.implicit:ImplicitPRM",
        "inverse": f"{_HERE}.prm.kinds.inverse:InversePRM",
        "generative": f"{_HERE}.prm.kinds.generative:GenerativePRM",
        "remote": f"{_HERE}.prm.kinds.remote:RemotePRM",
        "trl": f"{_HERE}.prm.kinds.foreign:TRLPRM",
        "qwen_math_prm": f"{_HERE}.prm.kinds.foreign:QwenMathPRM",
    },
)
