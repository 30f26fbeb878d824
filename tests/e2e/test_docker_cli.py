"""docker's own command line against the engine: run and everything around it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world
from tests.registry_peers import free_port


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("cli")) as made:
        yield made


@pytest.mark.parametrize(("arguments", "out"), [
    (["busybox", "echo", "hello"], "hello"),
    (["-e", "A=1", "busybox", "sh", "-c", "echo $A-$HOSTNAME"], None),
    (["-w", "/made/here", "busybox", "pwd"], "/made/here"),
    (["-u", "bob", "busybox", "id"], "uid=1000(bob) gid=1000(bob) groups=10(wheel),1000(bob)"),
    (["-u", "7:8", "busybox", "id"], "uid=7 gid=8 groups=8"),
    (["--group-add", "5", "busybox", "id"], "uid=0(root) gid=0(root) groups=0(root),5,10(wheel)"),
    (["--tmpfs", "/etc", "busybox", "ls", "/etc"], "hostname\nhosts\nresolv.conf"),
    (["-h", "box.lan", "busybox", "sh", "-c", "tail -n 1 /etc/hosts | cut -f 2"], "box.lan box"),
    (["-h", "box", "busybox", "hostname"], "box"),
    (["--entrypoint", "echo", "busybox", "a", "b"], "a b"),
    (["--network", "none", "busybox", "ls", "/sys/class/net"], "lo"),
    (["--read-only", "--tmpfs", "/t", "busybox", "sh", "-c", "touch /t/a; touch /b 2>/dev/null || echo ro"], "ro"),
    (["--pids-limit", "30", "--cpus", "0.5", "-m", "64m", "busybox", "true"], ""),
    (["--init", "busybox", "sh", "-c", "exec cat /proc/1/comm"], None),
])
def test_run(world: EngineWorld, arguments: list[str], out: str | None) -> None:
    printed = world.ok("run", "--rm", *arguments)
    if out is not None:
        assert printed == out


@pytest.mark.parametrize(("arguments", "code", "text"), [
    (["busybox", "sh", "-c", "exit 7"], 7, ""),
    (["busybox", "nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
    (["busybox", "/nosuch"], 127, "no such file or directory"),
    (["busybox", "/etc/passwd"], 126, "permission denied"),
    (["busybox", "/etc"], 126, ""),
    (["--network", "nosuch", "busybox", "true"], 125, "nosuch"),
    (["-m", "1k", "busybox", "true"], 125, "Minimum memory limit allowed is 6MB"),
    (["--cap-add", "nosuch", "busybox", "true"], 125, "invalid CapAdd"),
    (["-w", "relative", "busybox", "true"], 125, "needs to be an absolute path"),
    (["--user", "nobody-here", "busybox", "true"], 125, "unable to find user nobody-here"),
    (["--runtime", "nosuch", "busybox", "true"], 125, "unknown or invalid runtime name: nosuch"),
    (["-v", "/etc/passwd:/etc", "busybox", "true"], 125, "Are you trying to mount a directory onto a file"),
    (["-v", "/etc:/etc/passwd", "busybox", "true"], 125, "Are you trying to mount a directory onto a file"),
    (["--mac-address", "01:42:ac:11:00:02", "busybox", "true"], 125, "invalid MAC address: 01:42:ac:11:00:02"),
    (["--uts", "host", "-h", "box", "busybox", "true"], 125, "conflicting options: hostname and the UTS mode"),
    (["--network", "host", "--link", "a:b", "busybox", "true"], 125, "host type networking can't be used with links"),
    (["--network", "container:a", "--dns", "1.1.1.1", "busybox", "true"], 125, "dns and the network mode"),
    (["--network", "container:a", "--add-host", "a:1.1.1.1", "busybox", "true"], 125, "custom host-to-IP mapping"),
    (["--network", "container:a", "--expose", "80", "busybox", "true"], 125, "port exposing and the container type"),
])
def test_exit_codes(world: EngineWorld, arguments: list[str], code: int, text: str) -> None:
    before = world.ok("ps", "-aq")
    done = world.docker("run", "--rm", *arguments)
    assert done.code == code, done
    assert text in done.err
    assert world.ok("ps", "-aq") == before


def test_unknown_image(world: EngineWorld) -> None:
    done = world.docker("run", "--rm", "nosuch-image", "true")
    assert done.code == 125
    assert "Unable to find image 'nosuch-image:latest' locally" in done.err


def test_name_conflict(world: EngineWorld) -> None:
    first = world.ok("create", "--name", "taken", "busybox")
    done = world.docker("create", "--name", "taken", "busybox")
    assert f'Conflict. The container name "/taken" is already in use by container "{first}"' in done.err
    world.ok("rm", "taken")


def test_stdin_reaches_the_process_and_ends(world: EngineWorld) -> None:
    text = "line\n" * 20000
    assert world.ok("run", "--rm", "-i", "busybox", "wc", "-l", stdin=text) == "20000"
    assert world.ok("run", "--rm", "-i", "busybox", "cat", stdin="") == ""


def test_stdout_and_stderr_stay_apart(world: EngineWorld) -> None:
    done = world.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.out, done.err, done.code) == ("out\n", "err\n", 3)


#: Docker's program and ours.
PROGRAMS = (("docker",), (sys.executable, "-m", "barque.cli.main"))
Step = tuple[bytes, bytes | Callable[[int], object]]


def talk(world: EngineWorld, script: Sequence[Step], *arguments: str, program: Sequence[str] = PROGRAMS[0]
         ) -> tuple[bytes, int]:
    """Run docker on a terminal; each step waits for a text and types another, or does something to the terminal.

    Returns the output and the exit code.
    """
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(program[0], [*program, *arguments], world.environment())
    output, position, steps = b"", 0, list(script)
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            assert time.monotonic() < deadline, output
            if steps and (at := output.find(steps[0][0], position)) >= 0:
                position = at + len(steps[0][0])
                then = steps.pop(0)[1]
                if callable(then):
                    then(fd)
                else:
                    os.write(fd, then)
                continue
            if not select.select([fd], [], [], 1)[0]:
                continue
            try:
                data = os.read(fd, 4096)
            except OSError:
                break
            if not data:
                break
            output += data
    finally:
        os.close(fd)
    return output, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_terminal(world: EngineWorld) -> None:
    output, code = talk(world, [(b"# ", b"tty; echo $TERM\n"), (b"xterm\r\n", b"exit 4\n")], "run", "--rm", "-it",
                        "busybox",
                        "sh")
    assert b"/dev/pts/0" in output
    assert code == 4


def test_exec_on_a_terminal_and_detach(world: EngineWorld) -> None:
    world.ok("run", "-d", "-it", "--name", "term", "busybox", "sh")
    _, code = talk(world, [(b"# ", b"echo in$((1+1))\n"), (b"in2\r\n", b"exit 5\n")], "exec", "-it", "term", "sh")
    assert code == 5
    output, _ = talk(world, [(b"", b"echo att$((1+1))\n"), (b"att2\r\n", b"\x10\x11")], "attach", "term")
    assert b"att2" in output
    assert world.inspect("term", "{{.State.Running}}") == "true"
    world.ok("rm", "-f", "term")


def resize(terminal: int) -> None:
    """To 33 lines of 111 columns; the container's own terminal follows a little later."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    os.write(terminal, b"until stty size | grep '33 111'; do sleep 0.02; done; echo res''ized\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_terminal_follows_its_window_and_own_keys_detach(world: EngineWorld, program: Sequence[str]) -> None:
    script: list[Step] = [(b"# ", resize), (b"resized\r\n", b"\x01d")]
    output, _ = talk(world, script, "run", "-it", "--name", "term", "--detach-keys", "ctrl-a,d", "busybox", "sh",
                     program=program)
    assert b"33 111" in output
    assert world.inspect("term", "{{.State.Running}}") == "true"
    _, code = talk(world, [(b"", b"echo ag''ain\n"), (b"again\r\n", b"exit 6\n")], "attach", "term", program=program)
    assert code == 6
    world.ok("rm", "term")


# docker's own client does not end when it keeps a signal for itself.
@pytest.mark.parametrize(("program", "proxy"), [(PROGRAMS[0], True), (PROGRAMS[1], True), (PROGRAMS[1], False)])
def test_signals_are_passed_on_unless_told_otherwise(world: EngineWorld, program: Sequence[str], proxy: bool) -> None:
    command = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    client = subprocess.Popen([*program, "run", "--name", "sig", f"--sig-proxy={str(proxy).lower()}", "busybox", "sh",
                               "-c", command], env=world.environment(), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    client.terminate()
    out, _ = client.communicate(timeout=PATIENCE)
    assert (out, client.returncode == 9) == ((b"got\n", True) if proxy else (b"", False))
    assert world.inspect("sig", "{{.State.Running}}") == str(not proxy).lower()
    world.ok("rm", "-f", "sig")


def test_exec(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "ex", "--group-add", "5", "busybox", "sleep", "1000")
    assert world.ok("exec", "ex", "id", "-G") == "0 5 10"
    assert world.ok("exec", "-u", "7:8", "ex", "id", "-G") == "8 5"
    assert world.ok("exec", "-u", "bob", "-w", "/tmp", "-e", "B=2", "ex", "sh", "-c",
                    "echo $(id -un) $PWD $B") == "bob /tmp 2"
    assert world.ok("exec", "-i", "ex", "cat", stdin="typed") == "typed"
    done = world.docker("exec", "ex", "nosuch")
    assert done.code == 127
    assert 'exec: "nosuch": executable file not found in $PATH' in done.err + done.out
    assert world.docker("exec", "ex", "/etc/passwd").code == 126
    assert world.docker("exec", "ex", "sh", "-c", "exit 9").code == 9
    world.ok("exec", "-d", "ex", "touch", "/tmp/made")
    world.ok("rm", "-f", "ex")
    assert "No such container: ex" in world.docker("exec", "ex", "true").err


def test_life(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "life", "--label", "k=v", "busybox", "sh", "-c",
             "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done")
    assert world.ok("ps", "-q", "--filter", "label=k=v", "--no-trunc") == world.inspect("life", "{{.Id}}")
    wait_for_log(world, "life", "up")
    assert "running" in world.docker("rm", "life").err
    world.ok("stop", "life")
    assert world.inspect("life", "{{.State.Status}} {{.State.ExitCode}}") == "exited 3"
    assert world.ok("logs", "life") == "up\nbye"
    world.ok("start", "life")
    world.ok("rename", "life", "life2")
    world.ok("restart", "-t", "5", "life2")
    world.ok("pause", "life2")
    assert world.inspect("life2", "{{.State.Status}} {{.State.Paused}}") == "paused true"
    world.ok("unpause", "life2")
    world.ok("update", "-m", "64m", "--memory-swap", "128m", "life2")
    assert "while" in world.ok("top", "life2")
    assert "ps: error: " in world.docker("top", "life2", "bogus-options").err
    assert "Couldn't find PID field in ps output" in world.docker("top", "life2", "-o", "user").err
    world.ok("kill", "life2")
    assert world.ok("wait", "life2") == "137"
    assert "is not running" in world.docker("kill", "life2").err
    world.ok("rm", "life2")


def test_what_nobody_set_is_null(world: EngineWorld, tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(bytes(1024))
    world.ok("import", "-c", "LABEL a=b", str(tmp_path / "empty.tar"), "bare")
    world.ok("create", "--name", "bare", "bare", "x")
    assert world.inspect("bare", "{{json .Config.Env}} {{json .Config.Volumes}} {{json .Config.Labels}}") == (
        'null null {"a":"b"}')
    world.ok("rm", "bare")
    world.ok("rmi", "bare")


def wait_for_log(world: EngineWorld, name: str, text: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while text not in world.ok("logs", name):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_logs(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "logs", "busybox", "sh", "-c",
             "for i in 1 2 3; do echo $i; echo e$i >&2; sleep 0.2; done")
    followed = world.docker("logs", "-f", "logs")
    assert (followed.out, followed.err) == ("1\n2\n3\n", "e1\ne2\ne3\n")
    # The order is that in which the two pipes were read.
    last = world.docker("logs", "--tail", "2", "logs")
    assert (last.out + last.err).count("\n") == 2
    assert followed.out.endswith(last.out) and followed.err.endswith(last.err)
    stamped = world.ok("logs", "-t", "--tail", "2", "logs")
    assert stamped.split()[0].endswith("Z")
    assert world.ok("logs", "--since", "2100-01-01", "logs") == ""
    world.ok("rm", "logs")


def test_oom(world: EngineWorld) -> None:
    assert world.docker("run", "--name", "oom", "-m", "20m", "busybox", "tail", "/dev/zero").code == 137
    assert world.inspect("oom", "{{.State.OOMKilled}}") == "true"
    world.ok("rm", "oom")


def test_published_port(world: EngineWorld) -> None:
    port = free_port()
    world.ok("run", "-d", "--name", "web", "-p", f"127.0.0.1:{port}:80", "busybox", "sh", "-c",
             "while :; do echo hi | nc -l -p 80; done")
    assert world.ok("port", "web") == f"80/tcp -> 127.0.0.1:{port}"
    deadline = time.monotonic() + PATIENCE
    answer = b""
    while not answer:
        assert time.monotonic() < deadline
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as sock:
                answer = sock.recv(10)
        except OSError:
            time.sleep(0.05)
    assert answer == b"hi\n"
    taken = world.docker("run", "--rm", "-p", f"127.0.0.1:{port}:80", "busybox", "true")
    assert taken.code == 125
    assert "driver failed programming external connectivity on endpoint" in taken.err
    world.ok("rm", "-f", "web")


def test_volumes(world: EngineWorld, tmp_path: Path) -> None:
    world.ok("run", "--rm", "-v", f"{tmp_path}/new:/b", "busybox", "sh", "-c", "echo x > /b/f")
    assert (tmp_path / "new" / "f").read_text() == "x\n"
    assert world.ok("run", "--rm", "-v", "vol:/data", "busybox", "cat", "/data/from-image") == "image"
    world.ok("run", "--rm", "-v", "vol:/data", "busybox", "sh", "-c", "echo y > /data/y")
    assert world.ok("run", "--rm", "-v", "vol:/v:ro", "busybox", "sh", "-c",
                    "cat /v/y; touch /v/z 2>/dev/null || echo ro"
                    ) == "y\nro"
    world.ok("volume", "rm", "vol")
    before = world.ok("volume", "ls", "-q")
    world.ok("run", "--rm", "-v", "/anonymous", "busybox", "true")
    assert world.ok("volume", "ls", "-q") == before


def test_images(world: EngineWorld) -> None:
    assert "busybox" in world.ok("images", "--format", "{{.Repository}}:{{.Tag}}")
    world.ok("tag", "busybox", "other:1")
    assert world.inspect("other:1", "{{.Id}}") == world.inspect("busybox", "{{.Id}}")
    assert "Untagged: other:1" in world.ok("rmi", "other:1")


def test_events_tell_the_story(world: EngineWorld) -> None:
    since = str(time.time())
    world.ok("run", "--rm", "--name", "told", "busybox", "true")
    lines = world.ok("events", "--since", since, "--until", str(time.time() + 1), "--filter", "container=told",
                     "--format",
                     "{{.Action}}").split("\n")
    assert lines == ["create", "attach", "start", "die", "destroy"]


def test_rm_leaves_nothing(world: EngineWorld) -> None:
    world.ok("run", "--rm", "-d", "--name", "gone", "busybox", "sleep", "0.1")
    world.docker("wait", "gone")
    deadline = time.monotonic() + PATIENCE
    while (world.ok("ps", "-aq") or os.listdir(world.root / "data" / "containers")
           or os.listdir(world.root / "run" / "containers")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_health(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "well", "--health-cmd", "test -e /tmp/ok", "--health-interval", "100ms",
             "--health-retries", "2", "busybox", "sleep", "1000")
    wait_health(world, "unhealthy")
    world.ok("exec", "well", "touch", "/tmp/ok")
    wait_health(world, "healthy")
    assert "(healthy)" in world.ok("ps", "--format", "{{.Status}}", "--filter", "name=well")
    world.ok("rm", "-f", "well")


def wait_health(world: EngineWorld, wanted: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while world.inspect("well", "{{.State.Health.Status}}") != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_restart_policy(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "again", "--restart", "on-failure:2", "busybox", "false")
    deadline = time.monotonic() + PATIENCE
    while world.inspect("again", "{{.RestartCount}} {{.State.Status}}") != "2 exited":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    world.ok("start", "again")
    assert world.ok("wait", "again") == "1"  # of the first end, although it is started again
    world.ok("stop", "again")
    world.ok("rm", "again")


def test_shared_namespaces(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "pause", "--ipc", "shareable", "busybox", "sleep", "1000")
    shared = world.ok("run", "--rm", "--network", "container:pause", "--ipc", "container:pause", "--pid",
                      "container:pause",
                      "busybox", "sh", "-c", "hostname; ps | grep -c 'sleep 1000'; readlink /proc/self/ns/net")
    own = world.ok("exec", "pause", "sh", "-c", "hostname; readlink /proc/self/ns/net").split()
    assert shared.split()[0] == own[0]
    assert shared.split()[-1] == own[1]
    world.ok("run", "-d", "--name", "beside", "--network", "container:pause", "--uts", "host", "busybox", "sleep",
             "1000")
    assert world.ok("update", "--pids-limit", "50", "beside") == "beside"
    world.ok("rm", "-f", "pause", "beside")


def test_the_daemon_outlives_a_client_that_is_killed(world: EngineWorld) -> None:
    client = world.popen("run", "--rm", "--name", "orphan", "busybox", "sleep", "1000", stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while world.docker("inspect", "-f", "{{.State.Running}}", "orphan").out.strip() != "true":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.kill()
    client.communicate()
    assert world.inspect("orphan", "{{.State.Running}}") == "true"
    world.ok("rm", "-f", "orphan")
