"""Arithmetic written as text, as a function of tensors: no name but those given, no code."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError

Formula = Callable[[Mapping[str, Tensor]], Tensor]

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "arctan": torch.atan,
}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}


class FormulaError(DnlsError):
    """A text that is no formula of the names it may use."""


def compile_formula(text: str, names: Sequence[str]) -> Formula:
    """A function of named tensors.

    Args:
        text: ``+ - * / **``, parentheses, numbers, ``pi``, the names, and exp, log, sqrt, sin,
            cos, arctan.
        names: What the formula may use.

    Raises:
        FormulaError: Anything else.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise FormulaError(f"{error.msg} at character {error.offset}") from error
    _check(tree, set(names))
    return lambda values: _value(tree, values)


def _check(node: ast.expr, names: set[str]) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        _check(node.left, names)
        _check(node.right, names)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        _check(node.operand, names)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id not in _FUNCTIONS or len(node.args) != 1 or node.keywords:
            raise FormulaError(f"'{ast.unparse(node)}' is no call of {sorted(_FUNCTIONS)}")
        _check(node.args[0], names)
    elif isinstance(node, ast.Name):
        if node.id not in names | {"pi"}:
            raise FormulaError(f"'{node.id}' is none of {sorted(names)}")
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        raise FormulaError(f"'{ast.unparse(node)}' is not arithmetic")


def _value(node: ast.expr, values: Mapping[str, Tensor]) -> Any:
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, values), _value(node.right, values)
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp):
        operand = _value(node.operand, values)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        argument = torch.as_tensor(_value(node.args[0], values), dtype=torch.float64)
        return _FUNCTIONS[node.func.id](argument)
    if isinstance(node, ast.Name):
        return math.pi if node.id == "pi" else values[node.id]
    assert isinstance(node, ast.Constant)
    return node.value
