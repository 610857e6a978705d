"""Dotted command-line flags: every mistake told at once, and `--a.b x` read as `args.a.b`."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

from .errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """argparse that raises `UserError` instead of exiting, and takes no abbreviations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse; a `UserError` lists every problem found."""
    problems = problems_of(parser, argv)
    if problems:
        raise UserError(problems)
    return parser.parse_args(list(argv))


def parse_nested(parser: argparse.ArgumentParser, argv: Sequence[str]) -> Any:
    """`parse`, with the flags nested by their dots."""
    return nest(parse(parser, argv))


def problems_of(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Unknown flags, missing or surplus values, values of a wrong type or out of the choices, and required flags that are absent."""
    actions = {option: action for action in parser._actions for option in action.option_strings}
    problems = []
    given: set[argparse.Action] = set()
    positional: list[str] = []
    index = 0
    while index < len(argv):
        option, has_value, inline = argv[index].partition("=")
        index += 1
        if option in ("-h", "--help"):
            return []
        if not option.startswith("--"):
            positional.append(argv[index - 1])
            continue
        values = [inline] if has_value else []
        while not has_value and index < len(argv) and not argv[index].startswith("--"):
            values.append(argv[index])
            index += 1
        action = actions.get(option)
        if action is None:
            problems.append(f"unknown flag {option}{did_you_mean(option, actions)}")
            continue
        given.add(action)
        problems += _value_problems(option, action, values, positional)
    wanted = [a for a in parser._actions if a.required and a.option_strings and a not in given]
    problems += [f"{action.option_strings[-1]} is required: {action.help or 'no default'}" for action in wanted]
    places = [a for a in parser._actions if not a.option_strings]
    missing = [a for a in places if a.required][len(positional) :]
    problems += [f"{action.dest} is missing: {action.help or 'no default'}" for action in missing]
    problems += [f"unexpected argument {text!r}" for text in positional[len(places) :]]
    return problems


def _value_problems(option: str, action: argparse.Action, values: list[str], positional: list[str]) -> list[str]:
    if action.nargs == 0:
        positional += values
        return []
    count = action.nargs if isinstance(action.nargs, int) else {None: 1, "?": None, "*": None, "+": None}.get(action.nargs)
    if action.nargs is None and len(values) > 1:
        positional += values[1:]
        values = values[:1]
    if count is not None and len(values) != count:
        return [f"{option} takes {count} value{'s' * (count != 1)}, got {len(values)}"]
    if action.nargs == "+" and not values:
        return [f"{option} takes at least one value"]
    problems = []
    for value in values:
        converted: Any = value
        if action.type is not None:
            try:
                converted = action.type(value)  # type: ignore[operator]
            except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
                detail = f": {error}" if isinstance(error, argparse.ArgumentTypeError) else ""
                problems.append(f"{option} is {value!r}; wanted {_kind(action.type)}{detail}")
                continue
        if action.choices is not None and converted not in action.choices:
            choices = [str(c) for c in action.choices]
            problems.append(f"{option} is {value!r}{did_you_mean(value, choices)} (allowed: {', '.join(choices)})")
    return problems


_TYPE = "argparse type: "


def _kind(convert: Any) -> str:
    """A type's name, or what the docstring of a converter of ours says that it takes."""
    told = (getattr(convert, "__doc__", None) or "").partition("\n")[0]
    if told.startswith(_TYPE):
        return told.removeprefix(_TYPE).partition(";")[0].rstrip(".")
    return getattr(convert, "__name__", str(convert))


def nest(args: argparse.Namespace) -> SimpleNamespace:
    """`Namespace(**{"a.b": 1})` as `a.b`."""
    root = SimpleNamespace()
    for name, value in vars(args).items():
        *parents, leaf = name.split(".")
        node = root
        for parent in parents:
            if not hasattr(node, parent):
                setattr(node, parent, SimpleNamespace())
            node = getattr(node, parent)
        setattr(node, leaf, value)
    return root


def unknown_options(flag: str, options: Mapping[str, Any], function: Callable[..., Any]) -> list[str]:
    """Options given by a JSON object that a function of a registry does not take."""
    parameters = list(inspect.signature(function).parameters.values())
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return []
    allowed = [p.name for p in parameters[1:]]
    return [
        f"{flag} has the unknown key {name!r}{did_you_mean(name, allowed)} (allowed: {', '.join(allowed) or 'none'})"
        for name in options
        if name not in allowed
    ]


def plain(value: Any) -> Any:
    """Dicts again, where the host's parser has made namespaces of them."""
    if isinstance(value, SimpleNamespace):
        value = vars(value)
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value
