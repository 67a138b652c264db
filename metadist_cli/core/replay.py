"""Record the torch operations of a function once, then replay them without the overhead of torch.func.

torch.func passes each operation through every transformation around it, which takes most of the time when tensors are
small. A recording holds the operations as they arrive below all transformations: the same kernels on the same strides,
hence the same bits. `torch.fx.experimental.proxy_tensor.make_fx` does this too, but recording takes 20 times as long
and keeps chains of views. Three of four operations reshape, transpose or expand; here each resulting tensor is one
`as_strided` of its base.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

_PLAIN_CALLS = 8  # before a call is recorded, which takes about as long as these
_MAX_SIGNATURES = 16  # recordings per function: each holds a megabyte or two
_MAX_OPERATIONS = 10_000  # per recording: beyond that, Python's compiler takes seconds
_RECORDING = threading.Lock()  # torch keeps the active dispatch mode in a variable shared by all threads


class Replayed:
    """A function that replays its operations once they are recorded and verified; several threads may call it.

    A recording holds for one signature: the structure of the arguments and the sizes, strides, dtypes and devices of
    their tensors. It is used after it has reproduced f's own result in another call. Calls that cannot be recorded
    (random numbers, `item`, writing into arguments) go to f.

    Args:
        f: Pure function of trees of tensors (nested dicts and tuples), whose branches and sizes do not depend on the
            values of tensors.

    Results must not be modified: those that depend on no argument are the same tensor in every call.
    """

    def __init__(self, f: Callable[..., Any]):
        self._f = f
        self._known: dict[Any, _Calls] = {}

    @torch.no_grad()
    def __call__(self, *args: Any) -> Any:
        """f(*args), by replaying a recording where there is one."""
        signature: list[Any] = []
        leaves = _flatten(args, [], signature)
        key = tuple(signature)
        if key not in self._known and len(self._known) >= _MAX_SIGNATURES:
            return self._f(*args)
        calls = self._known.setdefault(key, _Calls())
        recording = calls.recording
        if recording and calls.verified:
            return recording(*leaves)
        if recording:
            result = self._f(*args)
            calls.verified = _reproduces(recording, leaves, result)
            calls.failed = not calls.verified
            calls.recording = recording if calls.verified else None
            return result
        calls.count += 1
        if calls.count <= _PLAIN_CALLS or calls.failed:
            return self._f(*args)
        result, calls.recording = record(self._f, args)
        calls.failed = calls.recording is None
        return result


class _Calls:
    """The calls with one signature, and their recording."""

    def __init__(self) -> None:
        self.count = 0
        self.recording: Recording | None = None
        self.verified = self.failed = False


def _flatten(tree: Any, leaves: list[Tensor], signature: list[Any]) -> list[Tensor]:
    """Collect the tensors of nested dicts and tuples, and the signature; pytree's functions take 0.2 ms."""
    if isinstance(tree, Tensor):
        leaves.append(tree)
        signature += tree.shape, tree.stride(), tree.dtype, tree.device
        return leaves
    signature.append(tuple(tree) if isinstance(tree, dict) else type(tree))
    for branch in tree.values() if isinstance(tree, dict) else tree:
        _flatten(branch, leaves, signature)
    signature.append(None)
    return leaves


Recording = Callable[..., Any]
"""The recorded operations as a function of the arguments' leaves."""


def record(f: Callable[..., Any], args: Sequence[Any]) -> tuple[Any, Recording | None]:
    """Call a function and record its operations.

    Args:
        f: Function as for `Replayed`.
        args: Its arguments, trees of tensors.

    Returns:
        f(*args), and a recording for arguments of the same signature; None if the call cannot be recorded.
    """
    args = tree_map_only(Tensor, torch.detach, args)  # one object per argument: later calls may pass different tensors
    recorder = _Recorder(_flatten(args, [], []))
    with _RECORDING, recorder:
        result = f(*args)
    if recorder.failed:
        return result, None
    recorder.graph.output(tree_map_only(Tensor, recorder.node_of, result))
    recorder.graph.eliminate_dead_code(_has_side_effect)
    return result, fx.GraphModule(recorder.constants, recorder.graph).forward


def _reproduces(recording: Recording, leaves: Sequence[Tensor], result: Any) -> bool:
    """Whether a recording gives this result; false if it contains NaN or memory does not suffice for both."""
    try:
        return all(map(torch.equal, tree_iter(result), tree_iter(recording(*leaves))))
    except (RuntimeError, MemoryError):
        return False


def _has_side_effect(node: fx.Node) -> bool:
    """Whether an operation matters even if its result is unused: it writes into a tensor or may raise an error."""
    schema = getattr(node.target, "_schema", None)
    return node.is_impure() or (schema is not None and not schema.returns)


class _Origin(NamedTuple):
    """Where a recording gets a tensor from: a node, or a view of its value. A layout is (size, stride, offset)."""

    node: fx.Node
    node_layout: tuple[Any, ...]
    layout: tuple[Any, ...]


class _Recorder(TorchDispatchMode):
    """Records every operation that depends on the inputs; all other tensors become constants of the recording."""

    def __init__(self, inputs: Sequence[Tensor]):
        super().__init__()
        self.graph, self.failed = fx.Graph(), False
        self.constants: dict[str, Tensor] = {}
        self._origins = WeakIdKeyDictionary()
        self._views: dict[_Origin, fx.Node] = {}
        for i, tensor in enumerate(inputs):
            self._define(tensor, self.graph.placeholder(f"x{i}"))

    def _define(self, tensor: Tensor, node: fx.Node) -> None:
        self._origins[tensor] = _Origin(node, _layout(tensor), _layout(tensor))

    def node_of(self, tensor: Tensor) -> fx.Node:
        """The graph node whose value is this tensor, created if needed."""
        origin: _Origin | None = self._origins.get(tensor)
        if origin is None:
            name = f"constant{len(self.constants)}"
            self.constants[name] = tensor
            return self.graph.get_attr(name)
        if origin.layout == origin.node_layout:
            return origin.node
        if origin not in self._views:
            size, stride, offset = origin.layout
            if origin.node.op == "placeholder":  # a later argument may start elsewhere in its storage
                begin, offset = self.graph.call_method("storage_offset", (origin.node,)), offset - origin.node_layout[2]
                offset = self.graph.call_function(operator.add, (begin, offset)) if offset else None
            self._views[origin] = self.graph.call_method("as_strided", (origin.node, size, stride, offset))
        return self._views[origin]

    def _to_nodes(self, arguments: Any) -> Any:
        if isinstance(arguments, list | tuple):
            return type(arguments)(map(self._to_nodes, arguments))
        return self.node_of(arguments) if isinstance(arguments, Tensor) else arguments

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.failed:
            self._record(_Operation(func, args, kwargs, result))
        return result

    def _record(self, operation: _Operation) -> None:
        """Add an operation to the graph, or set `failed` if replaying it could give another result."""
        if operation.depends_on_values() or len(self.graph.nodes) > _MAX_OPERATIONS:
            self.failed = True
        elif any(v in self._origins for v in operation.inputs()):  # otherwise its results are constants
            self.failed = not self._recordable(operation)
            if not self.failed:
                self._add(operation)

    def _recordable(self, operation: _Operation) -> bool:
        """Whether all outputs are tensors, and it overwrites neither an argument nor a constant."""
        tensors = all(v is None or isinstance(v, Tensor) for v in operation.outputs())
        written = [self._origins.get(v) for v in operation.overwritten()]
        return tensors and all(origin is not None and origin.node.op != "placeholder" for origin in written)

    def _add(self, operation: _Operation) -> None:
        """Add a node for new values; a view of an input needs none, since `node_of` derives it from its base."""
        func, args, kwargs, result = operation
        bases = {_memory(v): v for v in operation.inputs()}
        outputs = [(i, v) for i, v in enumerate(operation.outputs()) if v is not None]
        new = [(i, v) for i, v in outputs if _memory(v) not in bases]
        if new or operation.overwritten() or not func._schema.returns:
            node = self.graph.call_function(
                func, self._to_nodes(args), {k: self._to_nodes(v) for k, v in kwargs.items()}
            )
            for i, output in new:
                several = isinstance(result, list | tuple)
                self._define(output, self.graph.call_function(operator.getitem, (node, i)) if several else node)
        for _, output in outputs:
            base = bases.get(_memory(output))
            if base is not None and base in self._origins:
                self._origins[output] = self._origins[base]._replace(layout=_layout(output))


class _Operation(NamedTuple):
    """One call of a torch operation."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    def inputs(self) -> list[Tensor]:
        return _tensors((*self.args, *self.kwargs.values()))

    def outputs(self) -> Sequence[Any]:
        return self.result if isinstance(self.result, list | tuple) else [self.result]

    def overwritten(self) -> list[Tensor]:
        """The inputs that it writes into."""
        if not self.func._schema.is_mutable or torch.Tag.inplace_view in self.func.tags:
            return []
        parameters = self.func._schema.arguments
        values = dict(zip([p.name for p in parameters], self.args, strict=False)) | self.kwargs
        written = [p.name for p in parameters if p.alias_info is not None and p.alias_info.is_write]
        return _tensors([values[name] for name in written if name in values])

    def depends_on_values(self) -> bool:
        """Whether another call with the same signature can have outputs of another size, or other random numbers."""
        if torch.Tag.dynamic_output_shape in self.func.tags:  # indexing has this tag because of boolean masks
            return self.func is not torch.ops.aten.index.Tensor or any(v.dtype == torch.bool for v in self.inputs())
        return torch.Tag.nondeterministic_seeded in self.func.tags


def _tensors(arguments: Iterable[Any]) -> list[Tensor]:
    """The tensors among an operation's arguments, and in lists of them."""
    flat = chain.from_iterable(a if isinstance(a, list | tuple) else (a,) for a in arguments)
    return [a for a in flat if isinstance(a, Tensor)]


def _memory(tensor: Tensor) -> tuple[int, torch.dtype]:
    return tensor.untyped_storage()._cdata, tensor.dtype


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
