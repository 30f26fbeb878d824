"""Every command of docker's command line is here with all its flags, or in the committed lists of what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from barque.cli import table
from barque.cli.command import Command
from barque.cli.flags import Flag
from barque.cli.help import command_help

LINES = (Path(__file__).parent / "docker_commands.txt").read_text().splitlines()
DOCKER = {path: set(flags.split(",")) - {""} for path, flags in (line.split(": ") if ": " in line
                                                                  else (line.rstrip(":"), "") for line in LINES)}
#: Groups and verbs without an implementation; each must answer so (and not be "unknown").
GROUPS_MISSING = {"plugin", "trust", "config", "node", "secret", "service", "stack", "swarm"}
VERBS_MISSING: set[str] = set()


def is_missing(path: str) -> bool:
    return path.split()[0] in GROUPS_MISSING or path in VERBS_MISSING


@pytest.mark.parametrize("path", sorted(DOCKER))
def test_command_exists_with_its_flags_or_is_known_to_be_missing(path: str) -> None:
    found, rest = table.resolve(path.split())
    if is_missing(path):
        assert found in table.MISSING
        assert path not in table.TABLE
        return
    assert (found, rest) == (path, [])
    command = table.load(path)
    assert isinstance(command, Command)
    assert {flag.name for flag in command.flags()} >= DOCKER[path]


@pytest.mark.parametrize("path", sorted(table.TABLE))
def test_flags_do_not_clash_and_every_text_is_there(path: str) -> None:
    command = table.load(path)
    flags: list[Flag] = command.flags()
    names = [flag.name for flag in flags] + [flag.short for flag in flags if flag.short]
    assert len(names) == len(set(names))
    assert command.summary
    assert all(flag.help for flag in flags)
    if not path.startswith("__"):
        assert command_help(command, path, 80).startswith(f"Usage:  barque {path}")
        assert command.examples


def test_help_of_run_shows_usage_examples_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    from barque.cli.main import main

    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage:  barque run [OPTIONS] IMAGE [COMMAND] [ARG...]\n")
    assert "\n  barque run -it --rm debian bash\n" in text
    assert "\n  -p, --publish list " in text
    assert all(len(line) <= 80 for line in text.splitlines() if line.startswith("   "))


def test_a_missing_verb_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from barque.cli.main import main

    assert main(["trust", "sign", "x"]) == 1
    assert "'barque trust' is not available in this version" in capsys.readouterr().err
