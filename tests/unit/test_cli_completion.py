"""What may come next on a command line, and the script with which bash asks."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from barque.cli.main import main

ASK = """
barque() { %s -m barque.cli.main "$@"; }
source <(barque completion bash)
compopt() { :; }
COMP_LINE=$1 COMP_POINT=${#1}
_barque
printf '%%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/socket")
    monkeypatch.setenv("DOCKER_CONFIG", "/nonexistent")


@pytest.mark.parametrize(("line", "names", "files"), [
    ("ne", ["network"], False),
    ("", None, False),
    ("network c", ["connect", "create"], False),
    ("run --netw", ["--network", "--network-alias"], False),
    ("-H x run --pull ", ["always", "missing", "never"], False),
    ("run --pull=n", ["--pull=never"], False),
    ("run -it image ", [], True),
    ("run image --netw", [], True),
    ("ps --filt", ["--filter"], False),
    ("ps web", [], False),
    ("container ls --no-t", ["--no-trunc"], False),
    ("completion ", ["bash", "fish", "zsh"], False),
    ("load -i ", [], True),
    ("stop ", [], False),
    ("nosuch ", [], False),
    ("--log-l", ["--log-level"], False),
])
def test_candidates(line: str, names: list[str] | None, files: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["__complete", *line.split(" ")]) == 0
    *found, last = capsys.readouterr().out.splitlines()
    shown = [item.partition("\t")[0] for item in found]
    assert last == (":0" if files else ":4")
    if names is None:
        assert {"run", "ps", "network"} <= set(shown)
        assert "__complete" not in shown
    else:
        assert shown == names


@pytest.mark.parametrize(("line", "replies"), [
    ("barque net", ["network"]), ("barque run --pull=al", ["always"]), ("barque volume r", ["rename", "rm"]),
])
def test_bash_gets_them(line: str, replies: list[str]) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "--norc", "-c", ASK % sys.executable, "bash", line], capture_output=True, text=True,
                          check=True)
    assert done.stdout.split() == replies
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell}")
    assert main(["completion", shell]) == 0
    subprocess.run([program, "-n", "/dev/stdin"], input=capsys.readouterr().out, text=True, check=True)
