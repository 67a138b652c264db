"""A function of tensors as the list of torch's operations that it comes to, carried out without what led to them.

torch.func leads each operation through every transformation around it, and where tensors are small, that is most of the
time. So the operations are written down as they arrive below all transformations, and are carried out from there: the
same kernels on the same strides, hence the same bits. `torch.fx.experimental.proxy_tensor.make_fx` does so, too; this
takes a twentieth of its time, and has no chains of views: of four operations three reshape, transpose or expand, and
here each such tensor is one `as_strided` of its base.
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

_BEFORE = 8  # calls before one is recorded, which takes about as long as these
_KINDS = 16  # of arguments, for which there are recordings: each holds a megabyte or two
_OPERATIONS = 10_000  # of a recording: with more, Python's compiler takes seconds
_RECORDING = threading.Lock()  # torch keeps in a variable of all threads that a mode is on


class Replayed:
    """f(*args), a pure function of trees of tensors, in which neither a branch nor a size depends on their values.

    A call whose tensors have the sizes and strides of earlier ones is replayed, once a recording has given f's own
    result in another call. What can't be recorded (random numbers, `item`, writing into arguments) is called as it is.
    Results are not to be written into: what depends on no argument is the same tensor every time. Several threads may
    call.
    """

    def __init__(self, f: Callable[..., Any]):
        self._f = f
        self._known: dict[Any, _Calls] = {}

    @torch.no_grad()
    def __call__(self, *args: Any) -> Any:
        kind: list[Any] = []
        leaves = _flat(args, [], kind)
        key = tuple(kind)
        if key not in self._known and len(self._known) >= _KINDS:
            return self._f(*args)
        calls = self._known.setdefault(key, _Calls())
        tape = calls.tape
        if tape and calls.proved:
            return tape(*leaves)
        if tape:
            result = self._f(*args)
            calls.proved = _gives(result, tape, leaves)
            calls.failed = not calls.proved
            calls.tape = tape if calls.proved else None
            return result
        calls.count += 1
        if calls.count <= _BEFORE or calls.failed:
            return self._f(*args)
        result, calls.tape = record(self._f, args)
        calls.failed = calls.tape is None
        return result


class _Calls:
    """What is known of the calls with one kind of arguments."""

    def __init__(self) -> None:
        self.count = 0
        self.tape: Tape | None = None
        self.proved = self.failed = False


def _flat(tree: Any, leaves: list[Tensor], kind: list[Any]) -> list[Tensor]:
    """The tensors of a tree of dicts and tuples; kind: all that a recording depends on. Pytree's way takes 0.2 ms."""
    if isinstance(tree, Tensor):
        leaves.append(tree)
        kind += tree.shape, tree.stride(), tree.dtype, tree.device
        return leaves
    kind.append(tuple(tree) if isinstance(tree, dict) else type(tree))
    for branch in tree.values() if isinstance(tree, dict) else tree:
        _flat(branch, leaves, kind)
    kind.append(None)
    return leaves


Tape = Callable[..., Any]
"""A recording: the leaves of the arguments -> the result."""


def record(f: Callable[..., Any], args: Sequence[Any]) -> tuple[Any, Tape | None]:
    """f(*args), and its recording for arguments of the same sizes and strides; None where it can't be recorded."""
    args = tree_map_only(Tensor, torch.detach, args)  # two that are one object now need not be so again
    recorder = _Recorder(_flat(args, [], []))
    with _RECORDING, recorder:
        result = f(*args)
    if recorder.failed:
        return result, None
    recorder.graph.output(tree_map_only(Tensor, recorder.place, result))
    recorder.graph.eliminate_dead_code(_acts)
    return result, fx.GraphModule(recorder.constants, recorder.graph).forward


def _gives(result: Any, tape: Tape, leaves: Sequence[Tensor]) -> bool:
    """Whether a recording gives this result; not where there is a NaN, nor where memory lacks for both."""
    try:
        return all(map(torch.equal, tree_iter(result), tree_iter(tape(*leaves))))
    except (RuntimeError, MemoryError):
        return False


def _acts(node: fx.Node) -> bool:
    """Whether it is more than its result: it writes into a tensor, or raises an error."""
    schema = getattr(node.target, "_schema", None)
    return node.is_impure() or (schema is not None and not schema.returns)


class _Place(NamedTuple):
    """Where a tensor is found in a recording: a node's value, or a view of it. Layouts: (size, stride, offset)."""

    base: fx.Node
    whole: tuple[Any, ...]
    layout: tuple[Any, ...]


class _Recorder(TorchDispatchMode):
    """Writes down what depends on the inputs; whatever else an operation is given is a constant of the recording."""

    def __init__(self, inputs: Sequence[Tensor]):
        super().__init__()
        self.graph, self.failed = fx.Graph(), False
        self.constants: dict[str, Tensor] = {}
        self._places = WeakIdKeyDictionary()
        self._views: dict[_Place, fx.Node] = {}
        for i, tensor in enumerate(inputs):
            self._put(tensor, self.graph.placeholder(f"x{i}"))

    def _put(self, tensor: Tensor, node: fx.Node) -> None:
        self._places[tensor] = _Place(node, _layout(tensor), _layout(tensor))

    def place(self, tensor: Tensor) -> fx.Node:
        """What stands for this tensor."""
        found: _Place | None = self._places.get(tensor)
        if found is None:
            name = f"constant{len(self.constants)}"
            self.constants[name] = tensor
            return self.graph.get_attr(name)
        if found.layout == found.whole:
            return found.base
        if found not in self._views:
            size, stride, offset = found.layout
            if found.base.op == "placeholder":  # another argument may begin elsewhere in its memory
                begin, offset = self.graph.call_method("storage_offset", (found.base,)), offset - found.whole[2]
                offset = self.graph.call_function(operator.add, (begin, offset)) if offset else None
            self._views[found] = self.graph.call_method("as_strided", (found.base, size, stride, offset))
        return self._views[found]

    def _placed(self, arguments: Any) -> Any:
        if isinstance(arguments, list | tuple):
            return type(arguments)(map(self._placed, arguments))
        return self.place(arguments) if isinstance(arguments, Tensor) else arguments

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.failed:
            self._write(func, args, kwargs, result)
        return result

    def _write(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        given, overwritten = _tensors((*args, *kwargs.values())), _written(func, args, kwargs)
        several = isinstance(result, list | tuple)
        results = list(result) if several else [result]
        self.failed |= _decided_by_values(func, given) or len(self.graph.nodes) > _OPERATIONS
        if not any(v in self._places for v in given):
            return
        self.failed |= not all(v is None or isinstance(v, Tensor) for v in results)
        self.failed |= any(v not in self._places or self._places[v].base.op == "placeholder" for v in overwritten)
        if self.failed:
            return
        memory = {_memory(v): v for v in given}
        fresh = [v is not None and _memory(v) not in memory for v in results]
        node: Any = None
        if overwritten or any(fresh) or not func._schema.returns:
            node = self.graph.call_function(func, self._placed(args), {k: self._placed(v) for k, v in kwargs.items()})
        for i, (tensor, new) in enumerate(zip(results, fresh, strict=True)):
            if new:
                self._put(tensor, self.graph.call_function(operator.getitem, (node, i)) if several else node)
            elif tensor is not None and (base := memory[_memory(tensor)]) in self._places:
                self._places[tensor] = self._places[base]._replace(layout=_layout(tensor))


def _decided_by_values(func: Any, given: Sequence[Tensor]) -> bool:
    """Whether another call of an operation may have another size, or draws other numbers."""
    if torch.Tag.dynamic_output_shape in func.tags:  # indices have it for the sake of masks
        return func is not torch.ops.aten.index.Tensor or any(v.dtype == torch.bool for v in given)
    return torch.Tag.nondeterministic_seeded in func.tags


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation overwrites."""
    if not func._schema.is_mutable or torch.Tag.inplace_view in func.tags:
        return []
    names = {a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write}
    told = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
    return _tensors([told[name] for name in names if name in told])


def _tensors(arguments: Iterable[Any]) -> list[Tensor]:
    """Those among an operation's arguments, and in lists of them."""
    all_of_them = chain.from_iterable(a if isinstance(a, list | tuple) else (a,) for a in arguments)
    return [a for a in all_of_them if isinstance(a, Tensor)]


def _memory(tensor: Tensor) -> tuple[int, torch.dtype]:
    return tensor.untyped_storage()._cdata, tensor.dtype


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
