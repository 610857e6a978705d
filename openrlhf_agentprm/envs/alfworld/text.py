"""textworld's text generator, made faster, and safe for game files from elsewhere.

The stock generator parses its templates anew in every step, deep-copies what it need not, and runs the small Python expressions
that a game file's templates hold. Here templates are parsed once, and expressions are read as formulas that join names. Any other
one is refused when the game is loaded, so that a game file is data and never code. The texts stay what the stock generator writes.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

from textworld.envs.pddl import textgen
from textworld.logic import Rule

from ...core.errors import UserError

Variables = Mapping[str, Any]

_NAMES = ("name", "id", "definite", "indefinite")
_stock_parse = textgen._parse_and_convert


def prepare_text() -> None:
    """Replace, once in a process, the parts of textworld's generator that this module mends."""
    if textgen.EvalSymbol is _FormulaSymbol:
        return
    textgen.EvalSymbol = _FormulaSymbol
    textgen._parse_and_convert = parse_template
    textgen.copy_context = _copy_context
    textgen.Symbol.copy = _copy_symbol
    textgen.Rule = _Queries


class _FormulaSymbol(textgen.EvalSymbol):  # type: ignore[misc]
    """An expression of a text template, checked when it is parsed and computed without running it."""

    def __init__(self, expression: str, context: Mapping[str, Any] | None = None) -> None:
        super().__init__(expression, context or {})
        _formula(expression)

    def derive(self, context: Mapping[str, Any] | None = None) -> list[Any]:
        variables = (context or self.context)["variables"]
        return [textgen.TerminalSymbol(_formula(self.expression)(variables))]


@functools.lru_cache(4096)
def _formula(expression: str) -> Callable[[Variables], str]:
    """`o.indefinite + ' ' + o.name`, `r.name or r.id` and the like as a function; anything else is a `UserError`."""
    try:
        return _compile(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, TypeError, RecursionError, ValueError) as error:
        raise UserError(
            f"the game's text holds the expression {expression[:80]!r}, which is refused: only names such as o.name, quoted text, "
            "'+' and 'or' are read"
        ) from error


def _compile(node: ast.expr) -> Callable[[Variables], str]:
    match node:
        case ast.Constant(value=str() as text):
            return lambda variables: text
        case ast.Name(id=variable):
            return lambda variables: str(variables[variable])
        case ast.Attribute(value=ast.Name(id=variable), attr=attribute) if attribute in _NAMES:
            return lambda variables: getattr(variables[variable], attribute)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _compile(left), _compile(right)
            return lambda variables: first(variables) + second(variables)
        case ast.BoolOp(op=ast.Or(), values=values):
            parts = [_compile(value) for value in values]
            return lambda variables: next(filter(None, (part(variables) for part in parts)), "")
    raise TypeError(type(node).__name__)


@functools.lru_cache(4096)
def _parsed_template(text: str, rule_name: str) -> Any:
    return _stock_parse(text, rule_name=rule_name)


def parse_template(text: str, rule_name: str = "symbols", **_: Any) -> Any:
    """The symbols of a template, as new objects."""
    return copy.deepcopy(_parsed_template(text, rule_name))


def _copy_context(context: Mapping[str, Any]) -> dict[str, Any]:
    # Variables and placeholders are never changed in place, so new dictionaries are enough.
    return {**context, "variables": dict(context["variables"]), "mapping": dict(context["mapping"])}


def _copy_symbol(symbol: Any, context: Mapping[str, Any]) -> Any:
    copied = copy.copy(symbol)
    copied.context = _copy_context(context)
    return copied


class _Queries:
    """The one thing that the text generator takes from textworld's `Rule`, parsed once for each text."""

    parse_conjunctive_query = staticmethod(functools.lru_cache(4096)(Rule.parse_conjunctive_query))
