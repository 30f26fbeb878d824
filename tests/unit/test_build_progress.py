"""How builds are shown, and what is said of a step that is not cached."""

from __future__ import annotations

from typing import Any

import pytest

from barque.build.cache import Facts
from barque.build.why import explain
from barque.cli.commands.build_results import parse_output
from barque.cli.errors import CommandError
from barque.cli.format.build_progress import Plain, Tree

SECOND = 1_000_000_000


def begun(number: int, text: str, stage: str = "app") -> dict[str, Any]:
    return {"Event": "begun", "Number": number, "Stage": stage, "Text": text, "Line": 1, "Time": number * SECOND}


def ended(number: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {"Event": "ended", "Number": number, "Time": int((number + seconds) * SECOND), **more}


EVENTS = [
    {"Event": "build", "Id": "b1", "Total": 3, "Stages": ["app"], "Time": 0}, begun(1, "FROM busybox"), ended(1, 0.5),
    begun(2, "RUN make"), {"Event": "output", "Number": 2, "Stream": 1, "Text": "one\ntw"},
    {"Event": "output", "Number": 2, "Stream": 2, "Text": "o\n\x1b[2J\x1b]0;title\x07three\n"}]


def plain_lines(text: str) -> str:
    """Without colours and movements of the cursor."""
    import re

    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def test_plain_lines_have_the_number_of_their_step() -> None:
    written: list[str] = []
    view = Plain(written.append)
    for event in [*EVENTS, ended(2, 1.25, Why="changed: a"), begun(3, "CMD x"), ended(3, 0, Cached=True)]:
        view.take(event)
    lines = "".join(written).splitlines()
    assert lines[:3] == ["#1 [app] FROM busybox", "#1 DONE 0.5s", "#2 [app] RUN make"]
    assert [line.split(" ", 2)[2] for line in lines[3:5]] == ["one", "two"]
    assert lines[6:] == ["#2 DONE 1.2s (changed: a)", "#3 [app] CMD x", "#3 CACHED"]


def test_the_tree_shows_stages_and_recent_output() -> None:
    written: list[str] = []
    tree = Tree(written.append, lambda: (60, 24))
    for event in EVENTS:
        tree.take(event)
    shown = [plain_lines(line) for line in tree.lines(60)]
    assert shown[0].startswith("[+] Building ") and shown[0].endswith("s (1/3)")
    assert [line.split() for line in shown[1:3]] == [["app"], ["├─", "✓", "FROM", "busybox", "0.5s"]]
    assert shown[3].startswith(" └─ • RUN make")
    assert [line.strip(" │") for line in shown[4:]] == ["one", "two", "three"]
    assert all(len(line) <= 60 for line in shown)
    tree.take(ended(2, 2, Error="it broke"))
    assert [plain_lines(line).strip(" │") for line in tree.lines(60)][4:] == ["one", "two", "three"]


def test_a_tree_that_is_higher_than_the_terminal_is_cut() -> None:
    written: list[str] = []
    tree = Tree(written.append, lambda: (40, 5))
    tree.take({"Event": "build", "Id": "b1", "Total": 9, "Stages": ["app"], "Time": 0})
    for number in range(1, 10):
        tree.take(begun(number, f"RUN {number}"))
        tree.take(ended(number, 0))
    tree.tick()
    drawn = plain_lines(written[-1]).strip().splitlines()
    assert len(drawn) == 4 and drawn[0].startswith("[+] Building") and "RUN 9" in drawn[-1]
    tree.tick()
    assert written[-1].startswith("\x1b[4A\r\x1b[J")
    tree.close()
    assert len(plain_lines(written[-1]).strip().splitlines()) == 11


def test_reasons() -> None:
    facts = Facts("s", "RUN x", {"mounts": "m", "build argument A": "1"})
    assert explain(facts, None, rebuilt=False) == "not built before"
    assert explain(facts, None, rebuilt=True) == "a step before it was built anew"
    assert explain(facts, Facts("other", "RUN x"), rebuilt=False) == "what it builds on is another one"
    assert explain(facts, Facts("s", "RUN y"), rebuilt=False) == "not built before"
    assert explain(facts, Facts("s", "RUN x", {"mounts": "n", "build argument A": "1"}), rebuilt=True) == (
        "changed: mounts")
    assert explain(facts, facts, rebuilt=False) == "what it made is not kept any more"
    many = Facts("s", "RUN x", dict.fromkeys("abcde", ""))
    assert explain(many, Facts("s", "RUN x"), rebuilt=False) == "changed: a, b, c and 2 more"


def test_outputs_as_written() -> None:
    assert [(made.kind, made.attrs) for made in map(parse_output, [
        "out", "-", "type=oci,dest=x.tar", "type=tar", "type=image,name=a,push=true"])] == [
        ("local", {"dest": "out"}), ("tar", {"dest": "-"}), ("oci", {"dest": "x.tar"}), ("tar", {"dest": "-"}),
        ("image", {"name": "a", "push": "true"})]
    for bad in ("type=zip,dest=x", "type=local"):
        with pytest.raises(CommandError):
            parse_output(bad)
