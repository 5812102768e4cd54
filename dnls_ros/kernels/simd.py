"""Arithmetic on small dense blocks as vector instructions, by block size.

A block of b × b numbers is stored by columns, each padded to P rows, so that a column is one
vector <P × double> of LLVM, which makes of it what the machine has: one AVX-512 register, two of
AVX2, four of NEON. Loops over a block are unrolled while the code is written, since LLVM does not
vectorize loops this short. Blocks lie in flat arrays and are named by the offset where they begin;
offsets are not checked here.

A kernel for blocks of b × b gets ``unit``, a tuple of b integers: its type says b, so that one
kernel serves all sizes, is compiled for each, and is found again in numba's cache (which does not
find kernels that were made inside functions).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dnls_ros.kernels.jit import FASTMATH

DOUBLE = ir.DoubleType()
INT32, INT64 = ir.IntType(32), ir.IntType(64)
FLAGS = tuple(sorted(FASTMATH))
LARGEST = 16


def padded(b: int) -> int:
    """Rows of a stored column of b numbers: a whole number of vectors."""
    return b if b <= 2 else 4 * -(-b // 4)


def unit_of(b: int) -> tuple[int, ...]:
    """What tells kernels their block size, 1 ≤ b ≤ `LARGEST`."""
    return (0,) * b


class Code:
    """Writes instructions on vectors of one length at the builder's place."""

    def __init__(self, context: Any, builder: Any, length: int) -> None:
        self.context, self.builder, self.length = context, builder, length
        self.vector = ir.VectorType(DOUBLE, length)

    def pointer(self, kind: Any, array: Any, offset_kind: Any, offset: Any) -> Any:
        """Where a block begins."""
        data = self.context.make_array(kind)(self.context, self.builder, value=array).data
        return self.builder.gep(
            data, [self.context.cast(self.builder, offset, offset_kind, types.intp)]
        )

    def at(self, pointer: Any, index: int) -> Any:
        """The pointer moved by a constant."""
        return self.builder.gep(pointer, [ir.Constant(INT64, index)])

    def load(self, pointer: Any, index: int = 0) -> Any:
        """A vector from there."""
        place = self.builder.bitcast(self.at(pointer, index), self.vector.as_pointer())
        return self.builder.load(place, align=8)

    def store(self, value: Any, pointer: Any, index: int = 0) -> None:
        """A vector to there."""
        place = self.builder.bitcast(self.at(pointer, index), self.vector.as_pointer())
        self.builder.store(value, place, align=8)

    def scalar(self, pointer: Any, index: int) -> Any:
        """One number from there."""
        return self.builder.load(self.at(pointer, index))

    def spread(self, number: Any) -> Any:
        """A vector of equal numbers."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(INT32, 0))
        zeros = ir.Constant(ir.VectorType(INT32, self.length), None)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def minus(self, total: Any, x: Any, y: Any) -> Any:
        """total − x y."""
        return self.builder.fsub(total, self.times(x, y), flags=FLAGS)

    def plus(self, total: Any, x: Any, y: Any) -> Any:
        """Total + x y."""
        return self.builder.fadd(total, self.times(x, y), flags=FLAGS)

    def times(self, x: Any, y: Any) -> Any:
        """x y."""
        return self.builder.fmul(x, y, flags=FLAGS)

    def sum(self, value: Any) -> Any:
        """The sum of a vector's entries, in a fixed order."""
        parts = [
            self.builder.extract_element(value, ir.Constant(INT32, k)) for k in range(self.length)
        ]
        while len(parts) > 1:
            half = -(-len(parts) // 2)
            low, high = parts[:half], parts[half:]
            added = [self.builder.fadd(a, b, flags=FLAGS) for a, b in zip(low, high, strict=False)]
            parts = added + low[len(high) :]
        return parts[0]


def _write_factor(code: Code, b: int, place: Any, reciprocal: Any) -> Any:
    """Cholesky of one block in registers; returns the least pivot, NaN if one is not finite."""
    builder, p = code.builder, padded(b)
    root = builder.module.declare_intrinsic("llvm.sqrt", [DOUBLE])
    one, zero = ir.Constant(DOUBLE, 1.0), ir.Constant(DOUBLE, 0.0)
    nothing = zero  # 0 · Σ of the roots: NaN if one of them is infinite or NaN
    m = {(r, c): code.scalar(place, p * c + r) for c in range(b) for r in range(c, b)}
    least: Any = None
    for c in range(b):
        for k in range(c):
            for r in range(c, b):
                m[r, c] = code.minus(m[r, c], m[r, k], m[c, k])
        pivot = m[c, c]
        smaller = pivot if least is None else builder.fcmp_ordered("<", pivot, least)
        least = pivot if least is None else builder.select(smaller, pivot, least)
        m[c, c] = builder.call(root, [pivot])
        nothing = builder.fadd(nothing, builder.fmul(m[c, c], zero))
        inverse = builder.fdiv(one, m[c, c])
        builder.store(inverse, code.at(reciprocal, c))
        for r in range(c + 1, b):
            m[r, c] = code.times(m[r, c], inverse)
        for r in range(p):
            value = m[r, c] if c <= r < b else zero
            builder.store(value, code.at(place, p * c + r))
    return builder.fadd(least, nothing)


Writer = Callable[[Any, Any, Any, Any], Any]


def _writer(write: Callable[[Code, int, list[Any]], Any]) -> Writer:
    """Makes a code generator: the pointers of (array, offset) arguments, then ``write``.

    ``write`` gets the code, b, and for each argument after ``unit`` its value; an array and the
    offset that follows it are the pointer to a block.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        b = signature.args[0].count
        code = Code(context, builder, padded(b))
        arguments = []
        array: Any = None
        for kind, value in zip(signature.args[1:], given[1:], strict=True):
            if isinstance(kind, types.Array):
                array = kind, value
            else:
                arguments.append(code.pointer(*array, kind, value))
        result = write(code, b, arguments)
        return context.get_dummy_value() if result is None else result

    return generate


def _write_products(code: Code, b: int, targets: list[Any], left: Any, right: Any) -> None:
    """Dᵢ −= Aᵢ Cᵀ with the Aᵢ one after the other."""
    p = code.length
    columns = [[code.load(left, k * b * p + p * c) for c in range(b)] for k in range(len(targets))]
    for c in range(b):
        sums = [code.load(target, p * c) for target in targets]
        for k in range(b):
            factor = code.spread(code.scalar(right, p * k + c))
            sums = [code.minus(s, a[k], factor) for s, a in zip(sums, columns, strict=True)]
        for value, target in zip(sums, targets, strict=True):
            code.store(value, target, p * c)


@_writer
def _write_multiply(code: Code, b: int, places: list[Any]) -> None:
    _write_products(code, b, places[:1], places[1], places[2])


@_writer
def _write_multiply_two(code: Code, b: int, places: list[Any]) -> None:
    _write_products(code, b, places[:2], places[2], places[3])


@_writer
def _write_divide(code: Code, b: int, places: list[Any]) -> None:
    target, diagonal, reciprocal = places
    p = code.length
    done: list[Any] = []
    for c in range(b):
        value = code.load(target, p * c)
        for k in range(c):
            value = code.minus(value, done[k], code.spread(code.scalar(diagonal, p * k + c)))
        done.append(code.times(value, code.spread(code.scalar(reciprocal, c))))
        code.store(done[c], target, p * c)


@_writer
def _write_factorize(code: Code, b: int, places: list[Any]) -> Any:
    return _write_factor(code, b, *places)


@_writer
def _write_apply(code: Code, b: int, places: list[Any]) -> None:
    block, target, source = places
    total = code.load(target)
    for k in range(b):
        factor = code.spread(code.scalar(source, k))
        total = code.minus(total, code.load(block, code.length * k), factor)
    code.store(total, target)


@_writer
def _write_apply_transposed(code: Code, b: int, places: list[Any]) -> None:
    block, target, source = places
    vector = code.load(source)
    for k in range(b):
        dot = code.sum(code.times(code.load(block, code.length * k), vector))
        left = code.builder.fsub(code.scalar(target, k), dot, flags=FLAGS)
        code.builder.store(left, code.at(target, k))


@intrinsic
def multiply(typing: Any, unit: Any, L: Any, d: Any, a: Any, c: Any) -> Any:
    """D −= A Cᵀ."""
    return types.void(unit, L, d, a, c), _write_multiply


@intrinsic
def multiply_two(typing: Any, unit: Any, L: Any, d: Any, e: Any, a: Any, c: Any) -> Any:
    """D −= A Cᵀ and E −= A' Cᵀ, with A' the block after A."""
    return types.void(unit, L, d, e, a, c), _write_multiply_two


@intrinsic
def divide(typing: Any, unit: Any, L: Any, x: Any, d: Any, reciprocal: Any, zero: Any) -> Any:
    """X ← X D⁻ᵀ with D lower triangular; the reciprocals of its diagonal begin at ``zero``."""
    return types.void(unit, L, x, d, reciprocal, zero), _write_divide


@intrinsic
def factor(typing: Any, unit: Any, L: Any, d: Any, reciprocal: Any, zero: Any) -> Any:
    """D ← its Cholesky factor, reciprocals of whose diagonal are written; the least pivot."""
    return types.float64(unit, L, d, reciprocal, zero), _write_factorize


@intrinsic
def apply(typing: Any, unit: Any, L: Any, a: Any, x: Any, z: Any, y: Any) -> Any:
    """x[z…] −= A x[y…]."""
    return types.void(unit, L, a, x, z, y), _write_apply


@intrinsic
def apply_transposed(typing: Any, unit: Any, L: Any, a: Any, x: Any, z: Any, y: Any) -> Any:
    """x[z…] −= Aᵀ x[y…]."""
    return types.void(unit, L, a, x, z, y), _write_apply_transposed


@intrinsic
def padding(typing: Any, unit: Any) -> Any:
    """`padded` of the block size, a constant."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return ir.Constant(INT64, padded(signature.args[0].count))

    return types.int64(unit), generate
