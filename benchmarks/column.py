"""Profile a column of the Hessian: operations, bytes and times, compared with hardware limits.

    python benchmarks/column.py              a chunk of columns, on CPU
    python benchmarks/column.py --building   also the steps before, by part

As in `hessian`, a chunk of columns is pulled back through the linearised gradient. One pass counts
the operations that torch dispatches; further passes time the primitives.
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
"""Name of the part for operations outside of primitives."""
TITLES = {"LayerMessages": "messages", "Polynomials": "contraction", "EdgeLengths": "lengths"}
"""Names of parts, by the class of the operation."""
GRADIENT, LINEARISING, FIRST, COLUMN = "gradient", "linearising", "first column", "column"
MAX_ROWS = 12
"""Largest number of rows of the tables of operations and of products."""
LARGE_BLOCK = 2**26
"""Size of a tensor that exceeds every CPU cache, bytes."""
CACHED_BLOCK = 3 * 2**18
"""Size of tensors that fit into the second-level cache of a core, bytes."""

UNREAD = {"zero", "fill", "copy", "new_zeros", "zeros_like", "ones_like", "full_like"}
"""Operations that do not read their first tensor."""
ROWS = {"index_select", "index", "gather"}
"""Operations that read only as many bytes of their first tensor as they write."""
FACTORS = dict.fromkeys([*UNREAD, *ROWS, "clone", "_to_copy", "cat", "stack", "zeros"], 0)
FACTORS |= dict.fromkeys(["mv", "dot", "addmv", "addcmul", "addcdiv"], 2)
"""FLOPs per element of the largest tensor, if not 1; matrix products are counted by torch."""
COUNTED = ("MFLOP", "MB", "ops", "views", "FLOP ms", "byte ms", "op ms", "best ms")
"""Header of the columns that `numbers` returns."""
NOTE = (
    "Times are medians of passes without counting. MB are 10^6 bytes of operands and results, in "
    "cache or in memory. FLOP, byte and op ms are estimated times for each of these alone: FLOPs "
    "at the rate of the large product, bytes at the bandwidth of the cache, operations at the cost "
    "of a small one (plain in primitives; mapped and pulled back outside of them). Views and "
    "allocations count as operations. Best ms is the sum over operations of the larger of FLOP and "
    "byte time."
)


class Machine(NamedTuple):
    """Rates of the hardware.

    Attributes:
        flops: FLOP/s of a large matrix product.
        memory: Bandwidth of the memory, bytes/s.
        cache: Bandwidth of the cache, bytes/s.
        page: Time of the first access to a new MiB, s.
        plain: Time of a small operation, s.
        mapped: Time of a small operation that is pulled back under `vmap`, s.
    """

    flops: float
    memory: float
    cache: float
    page: float
    plain: float
    mapped: float


class Operation(NamedTuple):
    """A dispatched operation.

    Attributes:
        part: Name of the primitive that called it.
        name: Name of the operation.
        flops: Number of FLOPs.
        bytes: Bytes of operands and results.
        view: True for views and allocations.
        operands: Shape, stride and dtype of the operands of matrix products.
    """

    part: str
    name: str
    flops: int = 0
    bytes: int = 0
    view: bool = False
    operands: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...] = ()


Counts = dict[Operation, float]
"""Number of calls of each operation."""

Section = tuple[str, Sequence[str], Sequence[tuple[str, Sequence[float]]]]
"""Title, header, and named rows of numbers."""


class Parts:
    """Timer of the primitives: a stack of those that run, and the time of each."""

    def __init__(self, device: str) -> None:
        self.wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
        self.stack = [OUTSIDE]
        self.owners: dict[str, list[object]] = {}
        self.start()

    def start(self) -> None:
        """Reset the times."""
        self.wait()
        self.seconds: dict[str, float] = defaultdict(float)
        self.since = time.perf_counter()

    def lap(self) -> None:
        """Add the time since the last call to the primitive that runs."""
        self.wait()
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Time all primitives that run in this context."""
        with ExitStack() as stack:
            for kind in subclasses(Primitive):
                for name in {"compute", "compute_batch"} & set(vars(kind)):
                    function = self._timed(vars(kind)[name])
                    stack.enter_context(patch.object(kind, name, function))
            yield

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
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
        """Return the operation of a primitive, its number in order of first use, and the rule."""
        primitive = getattr(primitive, "primitive", primitive)  # of one under vmap
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
    """Yield all direct and indirect subclasses."""
    for sub in kind.__subclasses__():
        yield sub
        yield from subclasses(sub)


class Count(MemoryMeter):
    """Counter of dispatched operations and of the memory that they allocate."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts, self.counts = parts, Counter[Operation]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.counts[operation(self.parts.stack[-1], func, args, kwargs or {}, out)] += 1
        return out


def operation(part: str, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> Operation:
    """Return the FLOPs and the bytes of a dispatched operation."""
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
    """Return the bytes of a tensor; expanded dimensions count once."""
    pairs = zip(t.shape, t.stride(), strict=True)
    return t.element_size() * prod(n for n, stride in pairs if stride or not n)


def shortest(call: Callable[[], Any], span: float = 0.2) -> float:
    """Return the shortest time of several calls, s."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(min(timer.blocked_autorange(min_run_time=span).times))


def measure(device: str, dtype: torch.dtype) -> Machine:
    """Measure the rates of the hardware."""
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

    cached = CACHED_BLOCK * torch.get_num_threads()
    if cuda:
        cached = torch.cuda.get_device_properties(device).L2_cache_size // 2
    pages = []
    for _ in range(0 if cuda else 3):
        block = torch.empty(2 * LARGE_BLOCK, dtype=torch.uint8)  # too large to reuse freed memory
        times = [time.perf_counter()]
        for _ in range(2):
            block.fill_(1)
            times.append(time.perf_counter())
        pages.append((2 * times[1] - times[0] - times[2]) / (2 * LARGE_BLOCK / 2**20))
    memory, cache = bandwidth((64 if cuda else 4) * LARGE_BLOCK), bandwidth(cached)
    return Machine(flops, memory, cache, min(pages, default=0.0), plain, mapped)


def study(job: Job, columns: int, rates: Machine, building: bool) -> list[Section]:
    """Count and time the steps of a Hessian."""
    model = mf.load_model(job.model, dtype=getattr(torch, job.dtype), device=job.device)
    structure = mf.from_ase(job.atoms(), model)
    energy, x = mf.energy_fn(model, structure.graph), structure.positions
    vectors = torch.eye(x.numel(), dtype=x.dtype, device=x.device)[:columns].unflatten(1, x.shape)
    per = defaultdict(lambda: 1, {COLUMN: len(vectors)})
    counts: dict[str, tuple[Counts, int]] = {}
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
                counts[name] = {op: n / per[name] for op, n in count.counts.items()}, count.live
        return out

    for _ in range(1 + job.repeats):
        step(Parts(job.device), GRADIENT, lambda: gradient(x))
        parts = Parts(job.device)  # new for every gradient, because layers are new objects
        pull_back = step(parts, LINEARISING, lambda: vjp(gradient, x)[1])
        mapped = vmap(pull_back)
        step(parts, FIRST, partial(mapped, vectors[:1]))
        mapped(vectors)  # warm-up: the C library then has free blocks of these sizes
        step(parts, COLUMN, partial(mapped, vectors))
        del pull_back, mapped
    steps, sections = [], []
    for name, (ops, kept) in counts.items():
        total = 1e3 * median(sum(t.values()) for t in times[name]) / per[name]
        rows = []
        for part, part_ops in grouped(ops, lambda op: op.part).items():
            elapsed = 1e3 * median(t[part] for t in times[name]) / per[name]
            rows.append((part, [elapsed, 100 * elapsed / total, *numbers(part_ops, rates)]))
        rows.sort(key=lambda row: -row[1][0])
        rows.append(("total", [total, 100, *numbers(ops, rates)]))
        if name == COLUMN or building:
            sections.append((name, ("ms", "%", *COUNTED), rows))
        steps.append((name, [total, *numbers(ops, rates), kept / 2**20]))
    ops = counts[COLUMN][0]
    kinds = grouped(ops, lambda op: f"{op.part}: {op.name}")
    largest = [(kind, numbers(kind_ops, rates)) for kind, kind_ops in kinds.items()]
    largest.sort(key=lambda row: -row[1][-1])
    return [
        *sections,
        ("steps, the column being one of a chunk", ("ms", *COUNTED, "kept MiB"), steps),
        ("operations of a column", COUNTED, largest[:MAX_ROWS]),
        products(ops, job.device),
    ]


def grouped(ops: Counts, key: Callable[[Operation], Any]) -> dict[Any, Counts]:
    """Group operations by a key."""
    groups: dict[Any, Counts] = defaultdict(dict)
    for op, n in ops.items():
        groups[key(op)][op] = n
    return groups


def numbers(ops: Counts, rates: Machine) -> list[float]:
    """Return the counts and estimated times of operations, in the order of `COUNTED`."""
    flops = sum(n * op.flops for op, n in ops.items())
    moved = sum(n * op.bytes for op, n in ops.items())
    views = sum(n * op.view for op, n in ops.items())
    dispatch = sum(
        n * (rates.mapped if op.part == OUTSIDE else rates.plain) for op, n in ops.items()
    )
    best = sum(n * max(op.flops / rates.flops, op.bytes / rates.cache) for op, n in ops.items())
    times = (flops / rates.flops, moved / rates.cache, dispatch, best)
    row = (flops / 1e6, moved / 1e6, sum(ops.values()) - views, views)
    return [*row, *(1e3 * t for t in times)]


def products(ops: Counts, device: str) -> Section:
    """Time each matrix product alone; return the slowest ones, and the sum of all."""
    groups = grouped(ops, lambda op: op.operands and (op.name, *op.operands))
    groups.pop((), None)  # operations other than matrix products
    rows = []
    for (name, *operands), calls in groups.items():
        tensors, shapes = [], []
        for shape, stride, dtype in operands:
            extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
            storage = torch.randn(extent, dtype=dtype, device=device)
            tensors.append(storage.as_strided(shape, stride))
            shapes.append("x".join(map(str, shape)) + "ᵀ" * (stride[-1] > 1))
        number, flops = sum(calls.values()), sum(n * op.flops for op, n in calls.items())
        elapsed = number * shortest(partial(getattr(torch.ops.aten, name), *tensors), 0.02)
        rows.append((" ".join([name, *shapes]), [number, flops / 1e6, 1e3 * elapsed]))
    rows.sort(key=lambda row: -row[1][-1])
    rows = [*rows[:MAX_ROWS], ("all", [sum(row[1][i] for row in rows) for i in range(3)])]
    with_rate = [(name, [*values, values[1] / values[2]]) for name, values in rows]
    return "products of a column, alone", ("times", "MFLOP", "ms", "GFLOP/s"), with_rate


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--case", nargs="+", choices=list(CASES), default=["RSM0011-small"], dest="cases")
    add("--columns", type=int, default=8, help="columns of the chunk (%(default)s)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")
    add("--dtype", choices=("float64", "float32"), default="float64")
    add("--repeats", type=int, default=7, help="number of timings of each step (%(default)s)")
    add("--building", action="store_true", help="show the parts of the other steps too")
    add("--markdown", type=Path, metavar="OUT", help="write the tables here")
    parser.set_defaults(structure=None, growth=False, keep_memory=False)
    options = parser.parse_args()
    if min(options.columns, options.repeats) < 1:
        parser.error("--columns and --repeats must be positive")
    return options


def main() -> None:
    """Measure and report."""
    options = parse()
    rates = measure(options.device, getattr(torch, options.dtype))
    speeds = [rates.flops / 1e9, rates.memory / 1e9, rates.cache / 1e9]
    costs = [1e6 * rates.page, 1e6 * rates.plain, 1e6 * rates.mapped]
    header = ("GFLOP/s", "GB/s memory", "GB/s cache", "µs new MiB", "µs op", "µs op pulled back")
    sections: list[Section] = [("machine", header, [("measured", [*speeds, *costs])])]
    for name, job in jobs_of(options).items():
        results = study(job, options.columns, rates, options.building)
        sections += [(f"{name}, {title}", columns, rows) for title, columns, rows in results]
    heading = machine(options)
    console = Console(highlight=False)
    console.width = max(console.width, 130)
    console.print(heading)
    report = [heading]
    for title, columns, rows in sections:
        rich_table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        for column in ("", *columns):
            rich_table.add_column(column, justify="right" if column else "left", no_wrap=True)
        texts = [[name, *map(digits, values)] for name, values in rows]
        for row in texts:
            rich_table.add_row(*row)
        console.print(rich_table)
        report.append(table(title, ["", *columns], texts))
    console.print(NOTE)
    if options.markdown is not None:
        options.markdown.write_text("\n\n".join([*report, NOTE]) + "\n")


if __name__ == "__main__":
    main()
