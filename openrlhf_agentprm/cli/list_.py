"""agentprm list WHAT: what there is by name, with the distribution that brought it; imports none of it."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.arguments import Parser, parse
from ..core.errors import UserError, did_you_mean

KINDS = ("envs", "labels", "losses", "advantages", "reward-models", "recipes", "patches")


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="agentprm list", description="List what can be used by name.")
    parser.add_argument("what", nargs="?", help=f"one of {', '.join(KINDS)} (all)")
    wanted = parse(parser, argv).what
    if wanted is not None and wanted not in KINDS:
        raise UserError(f"unknown kind {wanted!r}{did_you_mean(wanted, KINDS)} (allowed: {', '.join(KINDS)})")
    for kind in KINDS if wanted is None else (wanted,):
        rows = _rows(kind)
        width = max((len(name) for name, _ in rows), default=0)
        if wanted is None:
            print(f"{kind}:")
        for name, text in rows:
            print(f"{'' if wanted else '  '}{name:<{width}}  {text}".rstrip())
    return 0


def _rows(kind: str) -> list[tuple[str, str]]:
    from ..core import registry

    registries = {
        "envs": registry.ENVS,
        "labels": registry.LABELS,
        "advantages": registry.ADVANTAGES,
        "reward-models": registry.REWARD_MODELS,
    }
    if kind in registries:
        return [(entry.name, f"{entry.target}  ({entry.distribution})") for entry in registries[kind].entries()]
    if kind == "losses":
        return [
            ("mse", "promise and progress regressed together on a linear head (--loss.beta), and V at every state (--loss.value_coef)"),
            ("soft_bce", "the same by binary cross-entropy against soft targets, on a sigmoid"),
            ("pqm", "an episode's right turns in rising order above its wrong ones (--loss.zeta)"),
            ("pairs", "preference pairs of --label.sidecar: the better action scores higher (--loss.margin_coef)"),
        ]
    if kind == "recipes":
        return _recipes()
    return _patches()


def _recipes() -> list[tuple[str, str]]:
    """Name and description, read without a YAML parser: the description is one line."""
    from ..pipeline.folders import recipes_folder

    rows = []
    for path in sorted(recipes_folder().glob("*.yaml")):
        lines = [
            line.partition("description:")[2].strip()
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("description:")
        ]
        rows.append((path.stem, lines[0] if lines else ""))
    return rows


def _patches() -> list[tuple[str, str]]:
    from ..host.patches import load_series, supported_versions

    rows = []
    for version in supported_versions():
        for patch in load_series(version).patches:
            rows.append((f"openrlhf-{version}/{patch.name}", f"[{patch.active}] {patch.header['Enables']}"))
    return rows
