"""Our command line beside docker's against our own engine: same output, same errors, same exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_pair import ERRORS, ID, LISTS, PROGRAMS, RUNS, both, cases, invoke, words
from tests.e2e.engine_world import EngineWorld, engine_world

OURS = PROGRAMS[1]
STORIES = Path(__file__).with_name("cli_stories.txt")
#: What differs between two containers that are alike: ages (first, since they have numbers in them), ids, names that
#: the engine made up, process ids.
VARIES = re.compile(r"Less than a second|About an? (minute|hour)|\b\d+ (second|minute|hour)s?\b|\d\d:\d\d:\d\d|"
                    r"\b[0-9a-f]{12,64}\b|\b[a-z]+_[a-z]+\b|\b\d{2,7}\b(?=\s)")


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


def told_in(output: str) -> object:
    """Docker's programs have the fields of a document in another order than the engine's answer."""
    try:
        return json.loads(VARIES.sub("*", output))
    except ValueError:
        return VARIES.sub("*", output)


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
            lines.append((command, code, told_in(out), VARIES.sub("*", err)))
        told.append(lines)
    assert [pair for pair in zip(*told, strict=True) if pair[0] != pair[1]] == []


def test_images_as_a_tree(host: str) -> None:
    assert invoke(OURS, host, ["tag", "busybox", "b.example/again:2"])[0] == 0
    code, out, err = invoke(OURS, host, ["images", "--tree"])
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["IMAGE", "ID", "DISK", "USAGE", "CONTENT", "SIZE", "EXTRA"]
    assert [line[0] for line in lines[1:]] == ["b.example/again:2", "busybox:latest", "└─"]
    assert lines[3][1].startswith("linux/")
    assert lines[2][-1] == lines[3][-1] == "U"
    assert invoke(OURS, host, ["rmi", "b.example/again:2"])[0] == 0
    docker, ours = both(host, ["images", "--tree", "-q"])
    assert ours == docker


@pytest.mark.parametrize(("line", "names"), [
    ("stop ", ["w1"]), ("start ", ["w2"]), ("rm w", ["w1", "w2"]), ("rm w1 ", ["w2"]), ("rmi ", ["busybox:latest"]),
    ("run --network b", ["bridge"]), ("container logs w2", ["w2"]), ("cp w1", ["w1:"]), ("unpause ", []),
])
def test_completion_knows_the_objects(host: str, line: str, names: list[str]) -> None:
    code, out, err = invoke(OURS, host, ["__complete", *line.split(" ")])
    assert (code, err) == (0, "")
    assert [item.partition("\t")[0] for item in out.splitlines()[:-1]] == names


def test_over_ssh_with_our_own_far_end(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Stands in for ssh: what it was asked to run there runs here.
    (tmp_path / "ssh").write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift 2\nexec sh -c "$*"\n')
    (tmp_path / "barque").write_text(f'#!/bin/sh\nexec {" ".join(OURS)} "$@"\n')
    for name in ("ssh", "barque"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    far = "ssh://me@far.example" + host.removeprefix("unix://")
    code, out, err = invoke(OURS, far, ["run", "--rm", "-i", "busybox", "wc", "-c"], b"x" * 300_000)
    assert (code, out, err) == (0, "300000\n", "")
    code, out, err = invoke(OURS, far, ["exec", "w1", "sh", "-c", "exit 9"])
    assert (code, out, err) == (9, "", "")
