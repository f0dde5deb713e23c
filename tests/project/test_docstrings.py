"""First lines of docstrings make sense alone, as an editor shows them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mace_functional

PACKAGE = Path(mace_functional.__file__).parent

NO_SUBJECT = re.compile(
    r"(As|At|By|For|From|How|In|Of|On|Some|That|The same|Their|Those|To|What|When|Where|Whether|"
    r"Which|With)\b"
)
"""Beginnings that lack a subject, or refer to a neighbouring line."""

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def first_lines(tree: DOCUMENTED, name: str = "") -> Iterator[tuple[str, str]]:
    """Names and first lines of docstrings of a module, its classes, functions and constants."""
    text = ast.get_docstring(tree)
    if text:
        yield name or "module", text.splitlines()[0]
    previous: ast.stmt | None = None
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from first_lines(node, f"{name}.{node.name}".lstrip("."))
        match previous, node:
            case (
                ast.Assign(targets=[target, *_]) | ast.AnnAssign(target=target),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield ast.unparse(target), text.splitlines()[0]
        previous = node


def problem(line: str) -> str | None:
    """Describe the fault of a first line; None for a line that makes sense alone."""
    if NO_SUBJECT.match(line):
        return "begins without a subject"
    if not re.search(r"[a-z]{2}.* ", re.sub(r"\([^)]*\)", "", line)):
        return "is a unit or a shape and does not name the quantity"
    return None


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("Edge products of a slice of nodes, (n, K, c).", True),
        ("Return the Jacobian of the messages.", True),
        ("Whether there is a batch.", False),
        ("Those of some nodes.", False),
        ("The same, transposed.", False),
        ("eV/Å².", False),
        ("(nodes, 3).", False),
    ],
)
def test_the_rule_tells_a_sentence_from_a_fragment(line, good):
    assert (problem(line) is None) == good


def test_docstrings_of_every_kind_are_found():
    source = '"""A."""\nX = 1\n"""B."""\nclass C:\n  """D."""\n  def f(self):\n    """E."""\n'
    found = dict(first_lines(ast.parse(source)))
    assert found == {"module": "A.", "X": "B.", "C": "D.", "C.f": "E."}


def test_first_lines_of_docstrings_make_sense_alone():
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, line in first_lines(ast.parse(path.read_text())):
            if fault := problem(line):
                faults.append(f"{path.relative_to(PACKAGE)}: {name} {fault}: {line}")
    assert not faults, "\n".join(faults)
