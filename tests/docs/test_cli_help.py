"""docs/cli.md, and every command line in the documentation, against the commands themselves."""

import re
import shlex

import pytest
import typer.main

from service.cli import app
from tests.docs.blocks import BLOCKS, Block
from tests.docs.generate import CLI, cli, commands, help_of

HELP = re.compile(r"waypost(?P<command>[a-z -]*?) (?:--help|-h)$")
WAYPOST = re.compile(r"(?:\S*/)?waypost ")


def lines_of(block: Block) -> list[str]:
    """Return the commands of a block as they would be typed: after a prompt where it is a console's."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    return text.splitlines() if block.language in {"", "sh", "shell", "bash"} else []


CALLS = [(block, line) for block in BLOCKS for line in lines_of(block) if WAYPOST.match(line)]


def test_the_documented_help_is_that_of_the_commands() -> None:
    assert CLI.read_text(encoding="utf-8") == cli(), "run `python -m tests.docs.generate`"


def test_nothing_in_a_help_is_taken_for_markup() -> None:
    assert "[routing], [learning] or [policy]" in " ".join(help_of("replay").replace("│", " ").split())


def test_every_command_is_documented() -> None:
    shown = set(re.findall(r"^## waypost ?(.*)$", CLI.read_text(encoding="utf-8"), re.MULTILINE))
    assert shown == set(commands())


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "console"], ids=str)
def test_help_shown_in_a_console_is_what_the_command_prints(block: Block) -> None:
    first, _, output = block.text.partition("\n")
    asked = HELP.match(first.removeprefix("$ "))
    if asked:
        assert output.strip("\n") == help_of(asked["command"].strip())


@pytest.mark.parametrize(("block", "line"), CALLS, ids=[f"{block}: {line[:50]}" for block, line in CALLS])
def test_a_documented_command_line_is_one_that_the_command_takes(block: Block, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((i for i, word in enumerate(words) if word in {"|", ">", "&", "&&"}), len(words))]
    group = typer.main.get_command(app)
    if not words or words[0].startswith("-"):
        return
    known = getattr(group, "commands", {})
    assert words[0] in known, f"{block}: no such command"
    if hasattr(known[words[0]], "commands") and len(words) > 1 and not words[1].startswith("-"):
        known, words = known[words[0]].commands, words[1:]
        assert words[0] in known, f"{block}: no such command"
    if words[-1] in {"--help", "-h"}:
        return
    try:
        known[words[0]].make_context(words[0], words[1:])
    except Exception as error:  # noqa: BLE001 - click's errors, of whichever click typer uses
        pytest.fail(f"{block}: {line}: {error}")


def test_command_lines_are_found() -> None:
    assert CALLS
