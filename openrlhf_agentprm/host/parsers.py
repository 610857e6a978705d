"""The host's own command-line parsers, without importing the host.

Each CLI of the host builds its parser under `if __name__ == "__main__":`, behind imports of torch, vllm and deepspeed. The statements from
`parser = …` up to `parser.parse_args()` are executed alone, from the patched source, for help, for recipe validation and for checking flags
before anything slow starts.
"""

from __future__ import annotations

import argparse
import ast
import functools
from datetime import datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from ..core.arguments import Parser
from .activate import host_version
from .cpu import has_cuda
from .patches import load_series

_OURS = {f"train_{name}": f"openrlhf_agentprm.host.{module}" for name, module in (("ppo_ray", "ppo"), ("sft", "sft"), ("dpo", "dpo"))}


def host_parser(module: str) -> argparse.ArgumentParser:
    """The parser of `openrlhf.cli.<module>`, with our flags where we add some."""
    names: dict[str, Any] = {"argparse": _Argparse, "datetime": datetime}
    if module in _OURS:
        names["agentprm"] = import_module(_OURS[module])
    exec(_parser_code(module), names)
    return names["parser"]


class _Argparse:
    """Stands for the module `argparse` in the host's statements; the parser is ours."""

    @staticmethod
    def ArgumentParser(*args: Any, **kwargs: Any) -> Parser:
        return Parser(*args, **kwargs)


@functools.cache
def _parser_code(module: str) -> Any:
    version = host_version()
    path = f"openrlhf/cli/{module}.py"
    text = Path(str(metadata.distribution("openrlhf").locate_file(path))).read_text(encoding="utf-8")
    series = load_series(version)
    if path in series.digests:
        text = series.apply(path, text, {"always"} if has_cuda() else {"always", "cpu"})
    main = next(node for node in ast.parse(text).body if isinstance(node, ast.If))
    kept = []
    for statement in main.body:
        if isinstance(statement, ast.Assign) and "parse_args" in ast.dump(statement.value):
            break
        kept.append(statement)
    return compile(ast.Module(kept, type_ignores=[]), path, "exec")
