"""Where each operation and each byte of a column of the Hessian goes, beside the machine's rates.

    python benchmarks/column.py              a chunk of columns, on CPU
    python benchmarks/column.py --building   and the steps before, by part

A chunk of columns is pulled back through the linearised gradient, as `hessian` does it. One pass
counts what torch dispatches, others time the primitives.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from hessian import CASES, Job, digits, jobs_of, machine, table
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import grad, vjp, vmap
from torch.utils._pytree import tree_leaves
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import flop_registry

import mace_functional as mf
from mace_functional.autodiff.memory import MemoryMeter
from mace_functional.autodiff.primitive import Primitive

OUTSIDE = "outside of primitives"
TITLES = {"MessagePassing": "messages", "Polynomials": "contraction", "EdgeGeometry": "geometry"}
GRADIENT, LINEARISING, FIRST, COLUMN = "gradient", "linearising", "first column", "column"
MANY = 12
"""Rows of the tables of operations and of products."""
EXTENT = 2**26
"""Bytes of a tensor that no cache of a CPU holds."""
CACHED = 3 * 2**18
"""Bytes that the second-level cache of a core holds, with room to spare."""

UNREAD = {"zero", "fill", "copy", "new_zeros", "zeros_like", "ones_like", "full_like"}
"""Operations that do not read their first tensor."""
ROWS = {"index_select", "index", "gather"}
"""Operations that read as much of their first tensor as they write."""
FACTORS = dict.fromkeys([*UNREAD, *ROWS, "clone", "_to_copy", "cat", "stack", "zeros"], 0)
FACTORS |= dict.fromkeys(["mv", "dot", "addmv", "addcmul", "addcdiv"], 2)
"""FLOPs for each number of the largest tensor, where it is not one; products count their own."""
COUNTED = ("MFLOP", "MB", "ops", "views", "FLOP ms", "byte ms", "op ms", "best ms")
NOTE = (
    "Times are medians, taken while nothing is counted. MB are 10^6 bytes of operands and results, "
    "wherever they are. FLOP, byte and op ms are what these would take alone: at the rate of the "
    "large product, at the cache's bandwidth, at the cost of a small operation (plain in "
    "primitives, mapped and pulled back outside of them; views and allocations cost as much). Best "
    "ms is the sum over operations of the longer of FLOP and byte time."
)


class Machine(NamedTuple):
    """FLOPs and bytes in a second, seconds for a new MiB and for an operation."""

    flops: float
    memory: float
    cache: float
    page: float
    plain: float
    mapped: float


class Operation(NamedTuple):
    """What was dispatched, for which part; products have the layouts of their operands."""

    part: str
    name: str
    flops: int = 0
    bytes: int = 0
    view: bool = False
    operands: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...] = ()


Found = dict[Operation, float]
Section = tuple[str, Sequence[str], Sequence[tuple[str, Sequence[float]]]]
"""A title, a header, and named rows of numbers."""


class Parts:
    """Knows which primitive is at work, and how long each has been."""

    def __init__(self, device: str) -> None:
        self.wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
        self.stack = [OUTSIDE]
        self.owners: dict[str, list[object]] = {}
        self.start()

    def start(self) -> None:
        """Begin to measure."""
        self.wait()
        self.seconds: dict[str, float] = defaultdict(float)
        self.since = time.perf_counter()

    def lap(self) -> None:
        """Book the time since the last call."""
        self.wait()
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Meanwhile primitives report."""
        with ExitStack() as stack:
            for kind in subclasses(Primitive):
                for name in {"compute", "compute_batch"} & set(vars(kind)):
                    function = self._reporting(vars(kind)[name])
                    stack.enter_context(patch.object(kind, name, function))
            yield

    def _reporting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(primitive: Primitive, *args: Any) -> Any:
            self.lap()
            self.stack.append(self._name(primitive))
            try:
                return function(primitive, *args)
            finally:
                self.lap()
                self.stack.pop()

        return call

    def _name(self, primitive: Any) -> str:
        """Of what, numbered as they came, and by which rule."""
        rule = type(primitive).__name__.strip("_").lower()
        owner = getattr(primitive, "operation", primitive)  # of the second-order ladder
        rule = rule if owner is not primitive else "value"
        owner = getattr(owner, "function", owner)
        title = TITLES.get(type(owner).__name__, type(owner).__name__.strip("_"))
        known = self.owners.setdefault(title, [])
        if not any(owner is one for one in known):
            known.append(owner)
        return f"{title} {[owner is one for one in known].index(True) + 1}, {rule}"


def subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    """All of them, and theirs."""
    for sub in kind.__subclasses__():
        yield sub
        yield from subclasses(sub)


class Count(MemoryMeter):
    """Counts operations, and the memory that they take."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts, self.found = parts, Counter[Operation]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.found[operation(self.parts.stack[-1], func, args, kwargs or {}, out)] += 1
        return out


def operation(part: str, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> Operation:
    """What it computes and moves."""
    name = func.overloadpacket.__name__
    base = name if name.startswith("_") else name.rstrip("_")
    read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    written = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
    storages = {t.untyped_storage()._cdata for t in read}
    aliases = any(t.untyped_storage()._cdata in storages for t in written)
    if (aliases and not func._schema.is_mutable) or "empty" in name:
        return Operation(part, name, view=True)
    operands: Any = ()
    if func.overloadpacket in flop_registry:
        flops = int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out))
        operands = tuple((t.shape, t.stride(), t.dtype) for t in read)
    else:
        flops = FACTORS.get(base, 1) * max((t.numel() for t in (*read, *written)), default=0)
    moved = [*read[base in UNREAD or base in ROWS :], *written, *(written if base in ROWS else ())]
    return Operation(part, name, flops, sum(map(size, moved)), False, operands)


def size(t: Tensor) -> int:
    """Bytes of a tensor; what is expanded counts once."""
    pairs = zip(t.shape, t.stride(), strict=True)
    return t.element_size() * prod(n for n, stride in pairs if stride or not n)


def shortest(call: Callable[[], Any], span: float = 0.2) -> float:
    """Seconds of a call when nothing disturbs it."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(min(timer.blocked_autorange(min_run_time=span).times))


def measure(device: str, dtype: torch.dtype) -> Machine:
    """The machine's rates."""
    cuda = device.startswith("cuda")
    width = 4096 if cuda else 1024
    a, b, out = torch.randn(3, width, width, dtype=dtype, device=device)
    flops = 2 * width**3 / shortest(lambda: torch.mm(a, b, out=out))
    small = torch.ones(2, dtype=dtype, device=device)
    plain, length = shortest(lambda: small * small), 100

    def chain(x: Tensor) -> Tensor:
        for _ in range(length):
            x = x * 2.0
        return x

    pull_back, pair = vjp(chain, small)[1], torch.stack([small, small])
    mapped = shortest(lambda: vmap(pull_back)(pair)) / length

    def bandwidth(extent: int) -> float:
        x, y, z, out = torch.ones(4, extent // 4 // dtype.itemsize, dtype=dtype, device=device)
        return extent / (shortest(lambda: torch.addcmul(x, y, z, out=out)) - plain)

    cached = CACHED * torch.get_num_threads()
    if cuda:
        cached = torch.cuda.get_device_properties(device).L2_cache_size // 2
    pages = []
    for _ in range(0 if cuda else 3):
        block = torch.empty(2 * EXTENT, dtype=torch.uint8)  # too large to have been used before
        times = [time.perf_counter()]
        for _ in range(2):
            block.fill_(1)
            times.append(time.perf_counter())
        pages.append((2 * times[1] - times[0] - times[2]) / (2 * EXTENT / 2**20))
    memory, cache = bandwidth((64 if cuda else 4) * EXTENT), bandwidth(cached)
    return Machine(flops, memory, cache, min(pages, default=0.0), plain, mapped)


def study(job: Job, columns: int, of: Machine, building: bool) -> list[Section]:
    """Count and time the steps of a Hessian."""
    model = mf.load_model(job.model, dtype=getattr(torch, job.dtype), device=job.device)
    structure = mf.from_ase(job.atoms(), model)
    energy, x = mf.energy_fn(model, structure.graph), structure.positions
    vectors = torch.eye(x.numel(), dtype=x.dtype, device=x.device)[:columns].unflatten(1, x.shape)
    per = defaultdict(lambda: 1, {COLUMN: len(vectors)})
    counts: dict[str, tuple[Found, int]] = {}
    times: dict[str, list[dict[str, float]]] = defaultdict(list)

    def gradient(x: Tensor) -> Tensor:
        return grad(energy)(x, structure.cell, model.params)

    def step(parts: Parts, name: str, call: Callable[[], Any]) -> Any:
        with parts.watched():
            if name in counts:
                parts.start()
                out = call()
                parts.lap()
                times[name].append(parts.seconds)
            else:
                with Count(parts) as count:
                    out = call()
                counts[name] = {op: n / per[name] for op, n in count.found.items()}, count.live
        return out

    for _ in range(1 + job.repeats):
        step(Parts(job.device), GRADIENT, lambda: gradient(x))
        parts = Parts(job.device)  # layers are new in every gradient, and so are their numbers
        pull_back = step(parts, LINEARISING, lambda: vjp(gradient, x)[1])
        mapped = vmap(pull_back)
        step(parts, FIRST, partial(mapped, vectors[:1]))
        mapped(vectors)  # from now on the C library has blocks of these sizes
        step(parts, COLUMN, partial(mapped, vectors))
        del pull_back, mapped
    steps, sections = [], []
    for name, (found, kept) in counts.items():
        total = 1e3 * median(sum(t.values()) for t in times[name]) / per[name]
        rows = []
        for part, mine in grouped(found, lambda op: op.part).items():
            elapsed = 1e3 * median(t[part] for t in times[name]) / per[name]
            rows.append((part, [elapsed, 100 * elapsed / total, *numbers(mine, of)]))
        rows.sort(key=lambda row: -row[1][0])
        rows.append(("total", [total, 100, *numbers(found, of)]))
        if name == COLUMN or building:
            sections.append((name, ("ms", "%", *COUNTED), rows))
        steps.append((name, [total, *numbers(found, of), kept / 2**20]))
    found = counts[COLUMN][0]
    kinds = grouped(found, lambda op: f"{op.part}: {op.name}")
    largest = sorted(((k, numbers(ops, of)) for k, ops in kinds.items()), key=lambda r: -r[1][-1])
    return [
        *sections,
        ("steps, the column being one of a chunk", ("ms", *COUNTED, "kept MiB"), steps),
        ("operations of a column", COUNTED, largest[:MANY]),
        products(found, job.device),
    ]


def grouped(found: Found, key: Callable[[Operation], Any]) -> dict[Any, Found]:
    """The operations of each key."""
    groups: dict[Any, Found] = defaultdict(dict)
    for op, n in found.items():
        groups[key(op)][op] = n
    return groups


def numbers(found: Found, of: Machine) -> list[float]:
    """What is counted of some operations."""
    flops = sum(n * op.flops for op, n in found.items())
    moved = sum(n * op.bytes for op, n in found.items())
    views = sum(n * op.view for op, n in found.items())
    dispatch = sum(n * (of.mapped if op.part == OUTSIDE else of.plain) for op, n in found.items())
    best = sum(n * max(op.flops / of.flops, op.bytes / of.cache) for op, n in found.items())
    times = (flops / of.flops, moved / of.cache, dispatch, best)
    row = (flops / 1e6, moved / 1e6, sum(found.values()) - views, views)
    return [*row, *(1e3 * t for t in times)]


def products(found: Found, device: str) -> Section:
    """The products that take longest, done alone and again and again, and all of them."""
    groups = grouped(found, lambda op: op.operands and (op.name, *op.operands))
    groups.pop((), None)  # what is no product
    rows = []
    for (name, *operands), ops in groups.items():
        tensors, shapes = [], []
        for shape, stride, dtype in operands:
            extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
            storage = torch.randn(extent, dtype=dtype, device=device)
            tensors.append(storage.as_strided(shape, stride))
            shapes.append("x".join(map(str, shape)) + "ᵀ" * (stride[-1] > 1))
        number, flops = sum(ops.values()), sum(n * op.flops for op, n in ops.items())
        elapsed = number * shortest(partial(getattr(torch.ops.aten, name), *tensors), 0.02)
        rows.append((" ".join([name, *shapes]), [number, flops / 1e6, 1e3 * elapsed]))
    rows.sort(key=lambda row: -row[1][-1])
    rows = [*rows[:MANY], ("all", [sum(row[1][i] for row in rows) for i in range(3)])]
    rated = [(name, [*values, values[1] / values[2]]) for name, values in rows]
    return "products of a column, alone", ("times", "MFLOP", "ms", "GFLOP/s"), rated


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Where the time of a Hessian's column goes.")
    add = parser.add_argument
    add("--case", nargs="+", choices=list(CASES), default=["RSM0011-small"], dest="cases")
    add("--columns", type=int, default=8, help="columns of the chunk (%(default)s)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")
    add("--dtype", choices=("float64", "float32"), default="float64")
    add("--repeats", type=int, default=7, help="times each step is timed (%(default)s)")
    add("--building", action="store_true", help="the parts of the other steps too")
    add("--markdown", type=Path, metavar="OUT", help="write the tables here")
    parser.set_defaults(structure=None, growth=False, keep_memory=False)
    options = parser.parse_args()
    if min(options.columns, options.repeats) < 1:
        parser.error("--columns and --repeats must be positive")
    return options


def main() -> None:
    """Measure and report."""
    options = parse()
    of = measure(options.device, getattr(torch, options.dtype))
    rates = [of.flops / 1e9, of.memory / 1e9, of.cache / 1e9]
    costs = [1e6 * of.page, 1e6 * of.plain, 1e6 * of.mapped]
    header = ("GFLOP/s", "GB/s memory", "GB/s cache", "µs new MiB", "µs op", "µs op pulled back")
    sections: list[Section] = [("machine", header, [("measured", [*rates, *costs])])]
    for name, job in jobs_of(options).items():
        found = study(job, options.columns, of, options.building)
        sections += [(f"{name}, {title}", columns, rows) for title, columns, rows in found]
    heading = machine(options)
    console = Console(highlight=False)
    console.width = max(console.width, 130)
    console.print(heading)
    report = [heading]
    for title, columns, rows in sections:
        shown = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        for column in ("", *columns):
            shown.add_column(column, justify="right" if column else "left", no_wrap=True)
        texts = [[name, *map(digits, values)] for name, values in rows]
        for row in texts:
            shown.add_row(*row)
        console.print(shown)
        report.append(table(title, ["", *columns], texts))
    console.print(NOTE)
    if options.markdown is not None:
        options.markdown.write_text("\n\n".join([*report, NOTE]) + "\n")


if __name__ == "__main__":
    main()
