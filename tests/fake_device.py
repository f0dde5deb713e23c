"""A GPU in pretence: its tensors say `cuda:0` and compute on the CPU.

    with fake_cuda() as waits:
        model = mf.load_model("embedded", device="cuda")
        ...
    waits  # Counter({"mace/polynomial.py:102 aten._to_copy.default": 6, ...})

What fails on a GPU fails here: an operation on tensors of both devices raises `MixedDevicesError`.
What only makes a GPU slow is counted, with the line of the package that did it: reading a value, or
copying to or from the device. The host then waits until the device has done all that is queued.

A `FakeTensor` holds a CPU tensor, and torch hands it every operation on it. To the C++ code of
torch it is on `meta`, the one device besides the CPU that every build of torch can differentiate
on; to Python it is on `cuda:0`. Operations that make tensors from nothing, or from CPU tensors, are
seen by a `TorchDispatchMode`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import mace_functional
from mace_functional.autodiff import primitive

CUDA = torch.device("cuda:0")
CPU = torch.device("cpu")
META = torch.device("meta")
MEMORY = 8 * 2**30
"""Free memory of the device, bytes."""
PACKAGE = f"{Path(mace_functional.__file__).parent}/"

aten = torch.ops.aten

WAITS = {
    aten._linalg_check_errors.default,
    aten._linalg_eigh.default,
    aten._linalg_svd.default,
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.equal.default,
    aten.linalg_eig.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}
"""Operations whose kernels read values on the host: results, shapes of results, or error codes."""

INDEXING = {
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
}
"""Operations that copy indices on the CPU to the device."""

COPIES = {aten._to_copy.default, aten.copy_.default}
"""Operations that may copy from one device to another."""

EAGER = {
    aten._conj.default: aten.conj_physical.default,
    aten._efficientzerotensor.default: aten.zeros.default,
    aten._neg_view.default: aten.neg.default,
}
"""Operations that mark a tensor instead of computing, and what computes: a mark would be lost."""


class MixedDevicesError(RuntimeError):
    """Raised for an operation on tensors of two devices, which CUDA refuses."""


class FakeTensor(Tensor):
    """A tensor that says it is on the device; `inner` holds its values on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> FakeTensor:
        out: FakeTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=META,
        )
        out.inner = inner
        return out

    def __repr__(self, **_: Any) -> str:
        return f"FakeTensor({self.inner})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _current().run(func, args, kwargs or {})


class _Device(TorchDispatchMode):
    """Runs the operations of the device, checks their arguments and counts the host's waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        here = _is_cuda(kwargs.get("device")) or any(map(_is_fake, _tensors((args, kwargs))))
        if func is aten._efficientzerotensor.default and not here:
            func = aten.zeros.default  # torch computes with marked zeros on `meta`
        return self.run(func, args, kwargs) if here else func(*args, **kwargs)

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation with arguments on the device, or with a result on it."""
        given = _tensors((args, kwargs))
        if func in COPIES:
            here = self._copies_to_device(func, args, kwargs)
        else:
            self._check(func, args, kwargs, given)
            here = _is_cuda(kwargs["device"]) if kwargs.get("device") is not None else True
        inner_args, inner_kwargs = _mapped(_inner, args), _mapped(_inner, kwargs)
        if "device" in kwargs:
            inner_kwargs["device"] = CPU
        inner_kwargs.pop("pin_memory", None)
        out = EAGER.get(func, func)(*inner_args, **inner_kwargs)
        # Operations in place return what they were given.
        same = {id(t.inner if _is_fake(t) else t): t for t in given}
        return _mapped(lambda x: same[id(x)] if id(x) in same else _made(x, here), out)

    def _copies_to_device(self, func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
        """True if the result of a copy is on the device; count copies that the host waits for."""
        if func is aten._to_copy.default:
            source, to = args[0], kwargs.get("device")
            to_device = _is_fake(source) if to is None else _is_cuda(to)
            waits = not kwargs.get("non_blocking", False)
        else:
            source, to_device, waits = args[1], _is_fake(args[0]), args[2:] != (True,)
        if to_device != _is_fake(source) and (waits or not to_device):
            self.note(func)
        return to_device

    def _check(
        self, func: Any, args: Any, kwargs: dict[str, Any], tensors: Sequence[Tensor]
    ) -> None:
        """Count what makes the host wait; refuse arguments on two devices."""
        counts_repeats = func is aten.repeat_interleave.Tensor and not kwargs.get("output_size")
        if func in WAITS or counts_repeats:
            self.note(func)
        if func in INDEXING:
            self._check_indices(func, args)
            tensors = _tensors((args[0], *args[2:3]))
        scalars_mix = torch.Tag.pointwise in func.tags or func in INDEXING or "fill" in str(func)
        on_cpu = [t for t in tensors if not _is_fake(t) and not (scalars_mix and t.dim() == 0)]
        if on_cpu and len(on_cpu) < len(tensors):
            shapes = [f"{tuple(t.shape)} on {'cuda:0' if _is_fake(t) else 'cpu'}" for t in tensors]
            raise MixedDevicesError(f"{func} of tensors {', '.join(shapes)}, at {_place()}")

    def _check_indices(self, func: Any, args: Any) -> None:
        """Count what indexing costs; refuse indices on the device into a tensor on the CPU."""
        indices = [t for t in args[1] if t is not None]
        if not _is_fake(args[0]) and any(map(_is_fake, indices)):
            raise MixedDevicesError(f"{func}: indices on cuda:0 for a tensor on cpu, {_place()}")
        fills = len(args) > 2 and args[2].numel() == 1
        masks = any(t.dtype in (torch.bool, torch.uint8) for t in indices)
        if not all(map(_is_fake, indices)) or (masks and not fills):
            self.note(func)  # to copy the indices, or for the number of entries that are True

    def note(self, func: Any) -> None:
        """Count an operation that makes the host wait, at the line of the package that runs it."""
        self.waits[f"{_place()} {func}"] += 1


_stack: list[_Device] = []


def _current() -> _Device:
    return _stack[-1]


def _place() -> str:
    """File and line of the innermost frame of the package."""
    frame: Any = sys._getframe(1)
    while frame is not None and not _in_package(frame.f_code):
        frame = frame.f_back
    if frame is None:
        return "outside of the package"
    return f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}"


def _in_package(code: Any) -> bool:
    """True for code of the package, but not for the modes that see every operation."""
    return code.co_filename.startswith(PACKAGE) and code.co_name != "__torch_dispatch__"


def _is_fake(x: Any) -> bool:
    return isinstance(x, FakeTensor)


def _is_cuda(device: Any) -> bool:
    """True for the names of the device: `cuda` in Python, `meta` in C++."""
    return device is not None and torch.device(device).type in (CUDA.type, META.type)


def _inner(x: Any) -> Any:
    """The tensor to compute with; zero tensors of forward mode have no memory."""
    if isinstance(x, FakeTensor):
        return x.inner
    if isinstance(x, Tensor) and x._is_zerotensor():
        return torch.zeros(x.shape, dtype=x.dtype)
    return x


def _made(x: Any, here: bool) -> Any:
    return FakeTensor(x) if here and isinstance(x, Tensor) else x


def _mapped(function: Callable[[Any], Any], x: Any) -> Any:
    """Apply a function to the leaves of arguments; `tree_map` would take most of the time."""
    if isinstance(x, tuple | list):
        return type(x)([_mapped(function, part) for part in x])
    if isinstance(x, dict):
        return {key: _mapped(function, part) for key, part in x.items()}
    return function(x)


def _tensors(x: Any) -> list[Tensor]:
    """List the tensors among arguments."""
    if isinstance(x, Tensor):
        return [x]
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def on_cpu(x: Any) -> Any:
    """Copy the tensors in a container to the CPU, uncounted."""
    return tree_map(lambda t: _inner(t).detach().clone() if isinstance(t, Tensor) else t, x)


def _on_cpu_first(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let `torch.tensor` and `torch.as_tensor` make a CPU tensor first, and copy it."""

    def made(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        if not _is_cuda(device):
            return make(data, device=device, **options)
        if isinstance(data, Tensor):
            return data.to(device=META, dtype=options.get("dtype"))
        return make(data, **options).to(META)

    return made


_tensor, _as_tensor = torch.tensor, torch.as_tensor
_as_subclass, _same = Tensor.as_subclass, primitive._same
_device, _numpy, _own_to, _tolist = Tensor.device, Tensor.numpy, Tensor.to, Tensor.tolist


def _device_of(tensor: Tensor) -> torch.device:
    device: torch.device = _device.__get__(tensor)
    return CUDA if device.type == META.type else device


def _to(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
    """Name the device as C++ knows it: without a GPU, torch cannot look up another."""
    return _own_to(tensor, *map(_renamed, args), **{k: _renamed(v) for k, v in options.items()})


def _renamed(x: Any) -> Any:
    return META if isinstance(x, str | torch.device) and _is_cuda(x) else x


def _new_tensor(tensor: Tensor, data: Any, **options: Any) -> Tensor:
    return torch.tensor(data, **{"dtype": tensor.dtype, "device": tensor.device} | options)


def _list_of(tensor: Tensor) -> Any:
    if isinstance(tensor, FakeTensor):
        _current().note("tolist")
        return _tolist(tensor.inner)
    return _tolist(tensor)


def _array_of(tensor: Tensor, *, force: bool = False) -> Any:
    if not isinstance(tensor, FakeTensor):
        return _numpy(tensor, force=force)
    if not force:
        raise TypeError("numpy() of a tensor on cuda:0: copy it with cpu() first")
    _current().note("numpy")
    return _numpy(tensor.inner, force=True)


def _uploaded(tensor: Tensor, index: Any) -> Any:
    """Copy the lists and arrays of an index to the device of the tensor, as torch does."""
    if not isinstance(index, tuple):
        return _uploaded(tensor, (index,))[0]
    return tuple(
        torch.tensor(np.asarray(part), device=CUDA)
        if tensor.device == CUDA and isinstance(part, list | np.ndarray)
        else part
        for part in index
    )


class _Indexing(TorchFunctionMode):
    """Copy indices to the device.

    It is no patch of `Tensor.__getitem__`: once that is set from Python, C takes all tensors for
    sequences, also after it is restored, and `torch.tensor` of a list of scalar tensors fails.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            tensor, index, *value = args
            args = tensor, _uploaded(tensor, index), *value
        return func(*args, **kwargs or {})


def _same_memory(one: Any, other: Any) -> bool:
    """Compare the memory of two tensors, as `Memo` does: that of the tensors inside."""
    return _same(*((_inner(t), version) for t, version in (one, other)))


PATCHES: list[tuple[Any, str, Any]] = [
    (Tensor, "device", property(_device_of)),
    (Tensor, "is_cuda", property(lambda t: t.device == CUDA)),
    (Tensor, "is_meta", property(lambda t: False)),
    (Tensor, "to", _to),
    (Tensor, "as_subclass", lambda t, cls: t if _is_fake(t) else _as_subclass(t, cls)),
    (Tensor, "tolist", _list_of),
    (Tensor, "numpy", _array_of),
    (Tensor, "new_tensor", _new_tensor),
    (torch, "tensor", _on_cpu_first(_tensor)),
    (torch, "as_tensor", _on_cpu_first(_as_tensor)),
    (primitive, "_same", _same_memory),
    (torch.cuda, "_lazy_init", lambda: None),
    (torch.cuda, "is_available", lambda: True),
    (torch.cuda, "device_count", lambda: 1),
    (torch.cuda, "current_device", lambda: 0),
    (torch.cuda, "mem_get_info", lambda *_: (MEMORY, 2 * MEMORY)),
    (torch.cuda, "memory_reserved", lambda *_: 0),
    (torch.cuda, "memory_allocated", lambda *_: 0),
]
"""Attributes that Python reads: device, conversions that pass by the dispatcher, and memory."""


@contextmanager
def fake_cuda() -> Iterator[Counter[str]]:
    """Make `cuda` a device that every operation works on; yield the counts of the host's waits."""
    device = _Device()
    with ExitStack() as stack:
        for owner, name, replacement in PATCHES:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        _stack.append(device)
        stack.callback(_stack.pop)
        stack.enter_context(device)
        stack.enter_context(_Indexing())
        yield device.waits
