"""The reference of the command line, from the parsers that read it."""

from __future__ import annotations

import argparse
import html
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from mace_functional.cli import make_parser

BEGINNING = """\
# Command line

`mace-functional SUBCOMMAND ...`. Each subcommand takes a model and a structure (a file, or the name
of an [example](reference/structures.md)); `finetune` takes files of labelled structures. An option
that takes several values takes them with spaces or with commas between them.

```text
{usage}
```

| exit code | meaning |
| ---: | --- |
| 0 | done |
| 1 | a check of a model failed |
| 2 | the input is invalid; the message says why |
| 3 | structures of a screening failed |
| 70 | a bug in the program |
| 130 | interrupted |

With `MACE_FUNCTIONAL_DEBUG=1` in the environment, every error comes with its traceback.
"""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the page of the command line to the files."""
    files.append(File.generated(config, "command_line.md", content="\n".join(page())))
    return files


def page() -> Iterator[str]:
    """Generate the parts of the page."""
    parser = make_parser()
    yield BEGINNING.format(usage=(parser.epilog or "").strip())
    for subcommand, subparser in subcommands(parser).items():
        yield from section(subcommand, subparser)
    (examples,) = {p.epilog.strip() for p in subcommands(parser).values() if p.epilog}
    yield f"## Example structures\n\n```text\n{examples}\n```\n"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each subcommand."""
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def section(subcommand: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Describe a subcommand, with its arguments in a table."""
    yield f"## {subcommand}\n\n{' '.join((parser.description or '').split())}\n"
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    yield f"```text\n{usage}\n```\n"
    yield '<div class="options" markdown>\n\n| argument | meaning |\n| --- | --- |'
    for action in parser._actions:
        if action.help is not argparse.SUPPRESS:
            yield f"| {name_of(action)} | {help_of(action)} |"
    yield "\n</div>\n"


def name_of(action: argparse.Action) -> str:
    """The words of an argument, with those of its value as argparse writes them."""
    choices = "" if action.choices is None else "{" + ",".join(map(str, action.choices)) + "}"
    value = action.metavar or choices or action.dest.upper()
    if not action.option_strings:
        return f"`{value}`"
    value = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def help_of(action: argparse.Action) -> str:
    """The help of an argument with its values filled in, as a cell of a table."""
    text = " ".join(((action.help or "") % vars(action)).split())
    text = html.escape(text, quote=False)
    for character in "|*_":
        text = text.replace(character, f"\\{character}")
    return text
