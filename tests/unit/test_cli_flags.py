"""The flag parser keeps pflag's rules and texts."""

from __future__ import annotations

import pytest

from barque.cli.flags import (
    BOOL,
    BYTES,
    DURATION,
    FILTER,
    INT,
    LIST,
    MAP,
    STRING,
    UINT16,
    Flag,
    FlagError,
    HelpWanted,
    parse,
)

FLAGS = [
    Flag("interactive", "i", BOOL, ""), Flag("tty", "t", BOOL, ""), Flag("publish", "p", LIST, ""),
    Flag("name", "", STRING, ""), Flag("sig-proxy", "", BOOL, "", True), Flag("memory", "m", BYTES, ""),
    Flag("last", "n", INT, "", -1), Flag("weight", "", UINT16, ""), Flag("sysctl", "", MAP, ""),
    Flag("interval", "", DURATION, ""), Flag("filter", "f", FILTER, ""),
]


@pytest.mark.parametrize(("words", "name", "value"), [
    (["-it"], "tty", True),
    (["-p8080:80"], "publish", ["8080:80"]),
    (["-p=8080:80", "-p", "9:9", "--publish=1:1"], "publish", ["8080:80", "9:9", "1:1"]),
    (["-itp", "80"], "publish", ["80"]),
    (["--sig-proxy=false"], "sig-proxy", False),
    (["--tty=T"], "tty", True),
    (["--name="], "name", ""),
    (["--name", "--tty"], "name", "--tty"),
    (["-m", "512m"], "memory", 512 << 20),
    (["-n", "-3"], "last", -3),
    (["-n0x10"], "last", 16),
    (["--sysctl", "a=b=c", "--sysctl", "d"], "sysctl", {"a": "b=c", "d": ""}),
    (["--interval", "1h2m3.5s"], "interval", 3723_500_000_000),
    (["-f", "Name=x", "--filter", "name= y "], "filter", {"name": ["x", "y"]}),
])
def test_values(words: list[str], name: str, value: object) -> None:
    assert parse(FLAGS, words)[name] == value


@pytest.mark.parametrize(("words", "text"), [
    (["--foo"], "unknown flag: --foo"),
    (["--foo=1"], "unknown flag: --foo"),
    (["-iz"], "unknown shorthand flag: 'z' in -iz"),
    (["--name"], "flag needs an argument: --name"),
    (["-ip"], "flag needs an argument: 'p' in -ip"),
    (["--=x"], "bad flag syntax: --=x"),
    (["---x"], "bad flag syntax: ---x"),
    (["--tty=maybe"],
     'invalid argument "maybe" for "-t, --tty" flag: strconv.ParseBool: parsing "maybe": invalid syntax'),
    (["-n", "x"], 'invalid argument "x" for "-n, --last" flag: strconv.ParseInt: parsing "x": invalid syntax'),
    (["--weight", "70000"],
     'invalid argument "70000" for "--weight" flag: strconv.ParseUint: parsing "70000": value out of range'),
    (["-m", "1x"], "invalid argument \"1x\" for \"-m, --memory\" flag: invalid suffix: 'x'"),
    (["--interval", "1"], 'invalid argument "1" for "--interval" flag: time: missing unit in duration "1"'),
    (["-f", "x"], 'invalid argument "x" for "-f, --filter" flag: bad format of filter (expected name=value)'),
])
def test_errors(words: list[str], text: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(FLAGS, words)
    assert caught.value.message == text
    assert caught.value.code == 125


def test_parsing_stops_at_the_first_argument_where_flags_are_not_interspersed() -> None:
    values = parse(FLAGS, ["-i", "image", "ls", "-t", "--", "x"], interspersed=False)
    assert values.arguments == ["image", "ls", "-t", "--", "x"]
    assert values["tty"] is False
    assert values.changed == {"interactive"}


def test_interspersed_flags_and_the_double_dash() -> None:
    values = parse(FLAGS, ["a", "-t", "b", "-", "--", "-i", "--x"])
    assert values.arguments == ["a", "b", "-", "-i", "--x"]
    assert values["tty"] is True


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help(word: str) -> None:
    with pytest.raises(HelpWanted):
        parse(FLAGS, [word])


def test_defaults_are_not_shared_between_runs() -> None:
    parse(FLAGS, ["-p", "1", "--sysctl", "a=b"])
    values = parse(FLAGS, [])
    assert (values["publish"], values["sysctl"]) == ((), {})
