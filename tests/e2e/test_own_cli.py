"""Our command line beside docker's against our own engine: same output, same errors, same exit codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_pair import ERRORS, ID, LISTS, PROGRAMS, RUNS, both, cases, invoke, words
from tests.e2e.engine_world import EngineWorld, engine_world

STORIES = Path(__file__).with_name("cli_stories.txt")
#: What differs between two containers that are alike: ids, names that the engine made up, process ids, ages.
VARIES = re.compile(r"\b[0-9a-f]{12,64}\b|\b[a-z]+_[a-z]+\b|\b\d{2,7}\b(?=\s)|"
                    r"Less than a second|About a minute|\b\d+ (second|minute)s?|\d\d:\d\d:\d\d")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with engine_world(tmp_path_factory.mktemp("own")) as made:
        prepare(made)
        yield f"unix://{made.socket}"


def prepare(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "w1", "-p", "18080:80", "-p", "9000-9002:9000-9002/udp", "--label", "a=b", "-v",
             "/v", "busybox", "sleep", "1000")
    world.ok("run", "--name", "w2", "busybox", "true")


@pytest.mark.parametrize("case", cases(LISTS.replace("{{.ID|foo}}", "{{.ID¦foo}}")))
def test_lists_and_inspections(host: str, case: str) -> None:
    docker, ours = both(host, words(case.replace("¦", "|")))
    assert ours == docker


@pytest.mark.parametrize("case", cases(ERRORS))
def test_engine_errors(host: str, case: str) -> None:
    docker, ours = both(host, words(case))
    assert ours == docker


@pytest.mark.parametrize("case", cases(RUNS))
def test_streams_and_exit_codes(host: str, case: str) -> None:
    docker, ours = both(host, words(case), b"some input\n" * 3000)
    # Which of two new names a container gets is the engine's affair.
    assert ours[:2] == docker[:2]
    assert ID.sub("ID", ours[2]) == ID.sub("ID", docker[2])


def stories() -> dict[str, list[list[str]]]:
    """By name: the commands of a story."""
    found: dict[str, list[list[str]]] = {}
    name = ""
    for line in STORIES.read_text().splitlines():
        if line.startswith("# "):
            name = line[2:]
        elif line:
            found.setdefault(name, []).append(shlex.split(line))
    return found


@pytest.mark.parametrize("name", stories())
def test_stories(host: str, name: str) -> None:
    told = []
    for program in PROGRAMS:
        lines = []
        for command in stories()[name]:
            code, out, err = invoke(program, host, command)
            lines.append((command, code, VARIES.sub("*", out), VARIES.sub("*", err)))
        told.append(lines)
    assert told[1] == told[0]
