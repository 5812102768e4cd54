"""Vectors of a few numbers as values in compiled code.

``unit`` is a tuple of so many integers as the vector has entries; its type says the length (see
`dnls_ros.kernels.simd`). A vector that is read past the end of what is meant has entries that
nobody looks at: rows need no padding, only arrays need `SPARE` numbers after the last row.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from dnls_ros.kernels.simd import DOUBLE, Code

SPARE = 32
UNIT4, UNIT8, UNIT16 = (0,) * 4, (0,) * 8, (0,) * 16  # powers of two, else LLVM spills


class Vector(types.Type):
    """A vector of ``length`` numbers."""

    def __init__(self, length: int) -> None:
        self.length = length
        super().__init__(f"Vector({length})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.VectorType(DOUBLE, kind.length))


@intrinsic
def zeros(typing: Any, unit: Any) -> Any:
    """A vector of zeros."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return ir.Constant(ir.VectorType(DOUBLE, signature.return_type.length), None)

    return Vector(unit.count)(unit), generate


@intrinsic
def add_scaled(typing: Any, total: Any, source: Any, at: Any, factor: Any) -> Any:
    """Total + factor · source[at …]."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        code = Code(context, builder, kinds[0].length)
        row = code.load(code.pointer(kinds[1], given[1], kinds[2], given[2]))
        return code.plus(given[0], row, code.spread(given[3]))

    return total(total, source, at, types.float64), generate


@intrinsic
def store(typing: Any, value: Any, target: Any, at: Any) -> Any:
    """target[at …] ← value."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        code = Code(context, builder, kinds[0].length)
        code.store(given[0], code.pointer(kinds[1], given[1], kinds[2], given[2]))
        return context.get_dummy_value()

    return types.void(value, target, at), generate
