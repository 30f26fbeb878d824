"""The grammar of barque-runtime's command line."""

from __future__ import annotations

import pytest

from barque.errors import InvalidArgument
from barque.runtime import flags
from barque.runtime.flags import Flag, UsageError
from barque.runtime.lifecycle import parse_signal

TABLE = {"env": Flag("list", ("e",)), "tty": Flag("bool", ("t",)), "user": Flag("text"), "count": Flag("int")}


def test_every_spelling():
    parsed = flags.parse(["-e", "A=1", "--env=B=2", "-t", "--user", "x", "-count=-3", "id"], TABLE, mixed=True)
    assert parsed.texts("env") == ["A=1", "B=2"]
    assert parsed.flag("tty")
    assert parsed.text("user") == "x"
    assert parsed.number("count") == -3
    assert parsed.rest == ["id"]


def test_what_is_not_given():
    parsed = flags.parse([], TABLE, mixed=True)
    assert (parsed.texts("env"), parsed.text("user"), parsed.number("count")) == ([], "", None)
    assert not parsed.flag("tty")


def test_the_first_other_word_ends_the_flags_of_exec():
    words = ["-t", "id", "ls", "-l", "--user", "x"]
    assert flags.parse(words, TABLE, mixed=False).rest == ["id", "ls", "-l", "--user", "x"]
    assert flags.parse(["id", "-t"], TABLE, mixed=True).flag("tty")
    assert flags.parse(["--", "-t"], TABLE, mixed=True).rest == ["-t"]


@pytest.mark.parametrize("words", [["--absent"], ["--user"], ["--tty=maybe"], ["--count", "many"], ["--count=1_0"],
                                   ["--count=" + "9" * 5000]])
def test_wrong_words(words):
    with pytest.raises(UsageError):
        flags.parse(words, TABLE, mixed=True)


@pytest.mark.parametrize(("text", "number"), [
    ("9", 9), ("0", 0), ("KILL", 9), ("sigterm", 15), ("SIGRTMIN", 34), ("64", 64)])
def test_signals(text, number):
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["65", "SIGNOPE", "", "-9", "١"])
def test_wrong_signals(text):
    with pytest.raises(InvalidArgument, match="unknown signal"):
        parse_signal(text)
