"""Several PRMs as one: their mean, their lowest, or a lower confidence bound."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...core.batches import ProcessScores
from ...core.ensembles import COMBINE, combined
from ...core.errors import UserError, did_you_mean
from ...core.registry import REWARD_MODELS
from ..scoring import RewardModel, ScoreBatch, load_reward_model
from ..vocabulary import check_same_vocabulary
from . import AUTO, check_reward_model, kind_of, records_of

FILE = "ensemble.json"


class EnsemblePRM:
    """PRMs that differ in their seeds, their data or their kind (registry entry `ensemble`).

        mean: Q = (1/M) Σ_m Q_m
        min:  Q = min_m Q_m
        lcb:  Q = mean_m Q_m − κ std_m Q_m    (over the M members, not an estimate from a sample of them)

    V is combined alike. Where members disagree the data said little, and the last two score such an action lower.

    Args:
        members: of one tokenizer.
        combine: one of `COMBINE`.
        kappa: κ of `lcb`.
    """

    def __init__(self, members: Sequence[RewardModel], combine: str = "mean", kappa: float = 1.0) -> None:
        self.members = members
        self.combine = combine
        self.kappa = kappa

    @classmethod
    def load(cls, path: str, *, dtype: str = "fp32", attn_implementation: str = "sdpa", device: str | torch.device = "cpu") -> EnsemblePRM:
        """From a folder with `ensemble.json`: {"members": [folders, beside it or absolute], "combine": "lcb", "kappa": 1.0}.

        Raises:
            UserError: all that is wrong with the file, or members of unlike tokenizers or outputs.
        """
        about = _read(Path(path) / FILE)
        cls.check(path)
        folders = checkpoints_of("ensemble", path)
        options = {"dtype": dtype, "attn_implementation": attn_implementation, "device": device}
        members = [load_reward_model(AUTO, folder, **options) for folder in folders]
        return cls(members, about["combine"], about["kappa"])

    @staticmethod
    def check(path: str, policy: str | None = None) -> None:
        """Members are PRMs of one tokenizer, the policy's if one is given, and of like outputs."""
        folders = checkpoints_of("ensemble", path)
        for folder in folders:
            check_reward_model(AUTO, folder, policy)
        for other in folders[1:]:
            check_same_vocabulary(other, folders[0])
        records = {folder: records_of(AUTO, folder) for folder in folders}
        meanings = {folder: "; ".join(f"{r.output}, {r.values}, {r.scale}" for r in found) for folder, found in records.items()}
        if len(set(meanings.values())) > 1:
            raise UserError(f"the members of {path} have unlike outputs or values: {meanings}; their scores do not mean the same")

    @torch.no_grad()
    def score(self, batch: ScoreBatch) -> ProcessScores:
        """Q and V of every turn, float32 on the CPU."""
        found = [member.score(batch) for member in self.members]
        q_MBK, v_MBK = torch.stack([s.q_BK for s in found]), torch.stack([s.v_BK for s in found])
        q_BK, v_BK = (combined(x_MBK, self.combine, self.kappa) for x_MBK in (q_MBK, v_MBK))
        return ProcessScores(q_BK, v_BK, q_MBK.std(0, correction=0))


def checkpoints_of(name: str, path: str) -> list[str]:
    """The checkpoints behind a reward model of the registry, "auto" too; none of a kind that is not ours or is elsewhere.

    Raises:
        UserError: `ensemble.json` is not there or wrong.
    """
    name = kind_of(path) if name == AUTO else name
    if name == "ensemble":
        members = [str((Path(path) / member).resolve()) for member in _read(Path(path) / FILE)["members"]]
        if nested := [member for member in members if Path(member, FILE).is_file()]:
            raise UserError(f"members of {path} are ensembles themselves: {', '.join(nested)}; list their members instead")
        return members
    if name == "remote":
        return []
    target = next((e for e in REWARD_MODELS.entries() if e.name == name), None)
    return [path] if target is not None and target.distribution == "openrlhf-agentprm" else []


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(
            f'there is no {file}; an ensemble is a folder with a file such as {{"members": ["../prm1", "../prm2"], "combine": "lcb", "kappa": 1.0}}'
        )
    try:
        about = {"combine": "mean", "kappa": 1.0, **json.loads(file.read_text(encoding="utf-8"))}
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is no JSON object: {error}") from error
    problems = [f"{file} has the unknown key {name!r}" for name in about.keys() - {"members", "combine", "kappa"}]
    members = about.get("members")
    if not (isinstance(members, list) and len(members) >= 2 and all(isinstance(m, str) for m in members)):
        problems.append(f'{file}: "members" is {members!r}; wanted a list of two or more folders')
    if about["combine"] not in COMBINE:
        problems.append(
            f'{file}: "combine" is {about["combine"]!r}{did_you_mean(str(about["combine"]), COMBINE)} (allowed: {", ".join(COMBINE)})'
        )
    if not (isinstance(about["kappa"], int | float) and math.isfinite(about["kappa"]) and about["kappa"] >= 0):
        problems.append(f'{file}: "kappa" is {about["kappa"]!r}; wanted a number of 0 or more')
    if problems:
        raise UserError(problems)
    return about
