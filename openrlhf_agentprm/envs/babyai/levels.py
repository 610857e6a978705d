"""Which BabyAI levels there are, and which of them an expert solves."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import UserError, did_you_mean

# AgentGym's 40 levels in its order: its task index is level = index % 40, seed = index // 40. GoToObjS6 exists as v1 only today.
AGENTGYM_LEVELS = [
    "GoToRedBallGrey",
    "GoToRedBall",
    "GoToRedBallNoDists",
    "GoToObjS6",
    "GoToLocalS8N7",
    "GoToObjMazeS7",
    "GoToImpUnlock",
    "GoToSeqS5R2",
    "GoToRedBlueBall",
    "GoToDoor",
    "GoToObjDoor",
    "Open",
    "OpenRedDoor",
    "OpenDoorLoc",
    "OpenRedBlueDoorsDebug",
    "OpenDoorsOrderN4Debug",
    "Pickup",
    "UnblockPickup",
    "PickupLoc",
    "PickupDistDebug",
    "PickupAbove",
    "PutNextLocalS6N4",
    "PutNextS7N4Carrying",
    "Unlock",
    "UnlockLocalDist",
    "KeyInBox",
    "UnlockPickupDist",
    "BlockedUnlockPickup",
    "UnlockToUnlock",
    "ActionObjDoor",
    "FindObjS7",
    "KeyCorridorS6R3",
    "OneRoomS20",
    "MoveTwoAcrossS8N9",
    "SynthS5R2",
    "SynthLoc",
    "SynthSeq",
    "MiniBossLevel",
    "BossLevel",
    "BossLevelNoUnlock",
]

# On these the bot fails or raises too often to give demonstrations (measured: below 95 % of 20 seeds).
UNRELIABLE_LEVELS = {
    "GoToImpUnlock",
    "UnlockToUnlock",
    "OpenDoorsOrderN4Debug",
    "PutNextS7N4Carrying",
    "KeyInBox",
}
RELIABLE_LEVELS = [level for level in AGENTGYM_LEVELS if level not in UNRELIABLE_LEVELS]

# One-room levels with a single goal that can be checked on the state: the agent may declare that it is done.
DECLARE_LEVELS = ["GoToLocalS6N3", "OpenDoorColor", "PutNextLocalS5N3", "UnlockLocal"]

_GROUPS = {"agentgym": AGENTGYM_LEVELS, "reliable": RELIABLE_LEVELS, "declare": DECLARE_LEVELS}


def resolve_levels(levels: str | Sequence[str]) -> list[str]:
    """A group's name ("agentgym", "reliable", "declare"), a comma-separated text or a list, as a list of known level names."""
    if isinstance(levels, str):
        levels = _GROUPS.get(levels) or levels.split(",")
    known = level_ids()
    problems = [
        f"unknown BabyAI level {level!r}{did_you_mean(level, known)} (groups: {', '.join(_GROUPS)})"
        for level in levels
        if level not in known
    ]
    if problems or not levels:
        raise UserError(problems or "no BabyAI level given")
    return list(levels)


def level_ids() -> dict[str, str]:
    """Level name to minigrid's id, the newest version of each."""
    import gymnasium
    import minigrid  # noqa: F401  (registers the ids)

    ids = sorted(name for name in gymnasium.registry if name.startswith("BabyAI-"))
    return {name.removeprefix("BabyAI-").rsplit("-v", 1)[0]: name for name in ids}
