"""An iteration captured as a CUDA graph: launched as a whole, without the host's part in it.

A graph reads and writes the same memory each time it is replayed. So the problem's tensors and all
that an iteration changes have buffers of their own, into which a call copies its numbers before
its first iteration; the graph ends by copying what it has found back into them. Recordings are
kept with a structure and found again by all that is baked into the graph: shapes, types and
device, costs, method, solver and tolerances.

Captured and replayed on an H200 with torch 2.11; tests that need a device are marked ``gpu``. Up
to the capture itself it is tested on the CPU: that an iteration has no side effects and gives the
same bits from the same buffers, that replaying one without a graph gives what `OnDevice` gives,
and that it asks the device nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.linear import LinearSolver
from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.carry import refilled, tensors_of
from dnls_ros.problem import Structure, Values

KEPT = 4
"""Recordings of one structure that are kept: each holds its buffers' memory."""

WARM_UP = 3
"""Runs before the capture: libraries set themselves up in the first ones."""

Capture = Callable[[Callable[[], None], torch.device], Callable[[], None]]


class Step(Protocol):
    """What is recorded: `dnls_ros.optim.on_device.Body`."""

    @property
    def method(self) -> Any:
        """Finds and judges steps."""
        ...

    @property
    def stop(self) -> Any:
        """Tolerances."""
        ...

    def __call__(self, assembly: Assembly, carry: Any) -> Any:
        """The carry after one iteration."""
        ...


def captured(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A function that does on the device what ``run`` does, by replaying its graph.

    Raises:
        UnavailableError: The device is no CUDA device.
    """
    if device.type != "cuda":
        raise UnavailableError(
            f"OnDevice(graph=True) captures a CUDA graph, but the values are on '{device}'; move "
            "problem and values to a CUDA device, or leave graph out"
        )
    with torch.cuda.device(device):
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    return graph.replay


@dataclass(eq=False)
class Recording:
    """Buffers, and the function that advances them by one iteration.

    Attributes:
        assembly: The problem over its buffers.
        carry: What an iteration changes, in buffers.
        replay: One iteration, from the buffers to the buffers.
    """

    assembly: Assembly
    carry: Any
    replay: Callable[[], None] = field(init=False)

    @classmethod
    def of(cls, step: Step, assembly: Assembly, carry: Any, capture: Capture) -> Recording:
        """Records ``step``; the buffers' numbers are those of the warm-up afterwards."""
        own = replace(assembly, problem=pytree.tree_map(_copy, assembly.problem))
        made = cls(own, refilled(carry, iter([_copy(t) for t in tensors_of(carry)])))
        buffers = tensors_of(made.carry)

        def run() -> None:
            found = tensors_of(step(made.assembly, made.carry))
            _store(buffers, found)

        made.replay = capture(run, buffers[0].device)
        return made

    def load(self, assembly: Assembly, carry: Any) -> None:
        """Copies the numbers of a call into the buffers."""
        _store(pytree.tree_leaves(self.assembly.problem), pytree.tree_leaves(assembly.problem))
        _store(tensors_of(self.carry), tensors_of(carry))


def _copy(tensor: Tensor) -> Tensor:
    """Memory of its own, also for each entry of an expanded tensor."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _store(buffers: list[Tensor], found: list[Tensor]) -> None:
    """Copies what was found, which may be another one of the buffers, into them."""
    places = {buffer.untyped_storage().data_ptr() for buffer in buffers}
    safe = [
        t if t is b or t.untyped_storage().data_ptr() not in places else t.clone()
        for b, t in zip(buffers, found, strict=True)
    ]
    for buffer, tensor in zip(buffers, safe, strict=True):
        if tensor is not buffer:
            buffer.copy_(tensor)


@dataclass(eq=False)
class Recordings:
    """The last recordings of a structure, with what each of them depends on.

    Attributes:
        capture: Makes a replayed function of a plain one.
        known: The last one used comes last.
    """

    capture: Capture = captured
    known: list[tuple[tuple[Any, ...], Recording]] = field(default_factory=list)

    @classmethod
    def of(cls, structure: Structure) -> Recordings:
        """Those that are kept with the structure."""
        kept = structure.symbolic.setdefault(cls, cls())
        assert isinstance(kept, cls)
        return kept

    def replayed(
        self, step: Step, linear: LinearSolver, assembly: Assembly, carry: Any
    ) -> Callable[[Any], Any]:
        """``step`` for this problem and from this carry on, by replaying.

        What it returns lies in buffers that the next call overwrites.

        Raises:
            UnavailableError: The carry is not on a CUDA device.
            DnlsError: The method draws random numbers.
        """
        _check_no_generator(carry.state)
        signature = _signature(step, linear, assembly, carry)
        at = next((k for k, (s, _) in enumerate(self.known) if _same(s, signature)), None)
        if at is None:
            recording = Recording.of(step, assembly, carry, self.capture)
        else:
            recording = self.known.pop(at)[1]
        self.known = [*self.known, (signature, recording)][-KEPT:]
        recording.load(assembly, carry)

        def advance(_: Any) -> Any:
            recording.replay()
            return recording.carry

        return advance


def _check_no_generator(state: Any) -> None:
    parts = [getattr(state, f.name) for f in fields(state)] if is_dataclass(state) else [state]
    if any(isinstance(part, torch.Generator) for part in parts):
        raise DnlsError(
            "OnDevice(graph=True): the method draws random numbers, which a graph would repeat; "
            "leave graph out"
        )


def _signature(
    step: Step, linear: LinearSolver, assembly: Assembly, carry: Any
) -> tuple[Any, ...]:
    """All that is baked into a graph."""
    leaves, spec = pytree.tree_flatten(assembly.problem)
    shapes = tuple((t.shape, t.dtype, t.device) for t in [*leaves, *tensors_of(carry)])
    return shapes, spec, step.method, linear, step.stop, assembly.first_estimates


def _same(a: Any, b: Any) -> bool:
    """Equal; tensors only if they are the same one, which a recording keeps alive."""
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, Tensor | Values):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if is_dataclass(a) and not isinstance(a, type) and type(a).__eq__ is object.__eq__:
        return all(_same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)
