"""create() and exec_process() as the monitor calls them: in its own process, over an overlay."""

from __future__ import annotations

import errno
import os

import pytest

from barque.oci.mount import Mount
from barque.oci.runtime_spec import Box, Process, Spec, User, decode
from barque.runtime import cgroups, rootfs
from barque.runtime.create import CreateRequest, RuntimeFailure, Stdio, create
from barque.runtime.process import Target, exec_process
from barque.sys import process
from tests.runtime.conftest import ANSWER, read_until


def exit_code(pidfd: int) -> int | None:
    assert process.ended(pidfd, ANSWER)
    return process.wait(pidfd)


class Containers:
    """Makes containers over an overlay of the busybox root, and ends those that still run."""

    def __init__(self, bundle, lower):
        self.bundle = bundle
        self.path = bundle.path
        self.overlay = Mount(type="overlay", lower=(str(lower),), upper=str(self.path / "upper"),
                             work=str(self.path / "work"))
        (self.path / "upper").mkdir()
        (self.path / "work").mkdir()
        self.cgroup = cgroups.manager(bundle.cgroup)
        self.output, self.sink = os.pipe()
        self.null = os.open("/dev/null", os.O_RDWR)
        self.made = []

    def spec(self, *args: str) -> Spec:
        self.bundle.save(*args)
        return decode((self.path / "config.json").read_bytes())

    def create(self, spec: Spec, *, mount: Mount | None = None):
        terminal = bool(spec.process and spec.process.terminal)
        created = create(CreateRequest(
            id="api", bundle=str(self.path), spec=spec, rootfs=(mount or self.overlay,), cgroup=self.cgroup,
            stdio=Stdio(None if terminal else (self.null, self.sink, self.sink))))
        self.made.append(created)
        return created

    def run(self, spec: Spec, **options) -> tuple[int | None, str]:
        created = self.create(spec, **options)
        created.start()
        return exit_code(created.pidfd), self.written()

    def written(self) -> str:
        os.set_blocking(self.output, False)
        try:
            return os.read(self.output, 65536).decode()
        except BlockingIOError:
            return ""

    def target(self, created, spec: Spec) -> Target:
        return Target(created.pid, created.pidfd, spec, self.cgroup)

    def close(self) -> None:
        for created in self.made:
            try:
                process.kill_and_reap(process.Clone(created.pid, created.pidfd))
            finally:
                created.close_channel()
                if created.console is not None:
                    os.close(created.console)
        for fd in (self.output, self.sink, self.null):
            os.close(fd)
        self.cgroup.destroy()


@pytest.fixture
def containers(bundle, busybox_root):
    found = Containers(bundle, busybox_root)
    yield found
    found.close()


def test_the_root_is_an_overlay_that_dies_with_the_container(containers, busybox_root):
    code, text = containers.run(containers.spec("sh", "-c", "echo x > /written; cat /etc/group | head -1"))
    assert (code, text) == (0, "root:x:0:\n")
    assert (containers.path / "upper/written").read_text() == "x\n"
    assert not (busybox_root / "written").exists()
    assert "api" not in os.listdir(containers.path)


def test_hundreds_of_layers(containers, tmp_path, busybox_root):
    lowers = []
    for number in range(300):
        layer = tmp_path / "layers" / str(number)
        layer.mkdir(parents=True)
        (layer / f"layer{number}").touch()
        lowers.append(str(layer))
    mount = Mount(type="overlay", lower=(*lowers, str(busybox_root)), upper=containers.overlay.upper,
                  work=containers.overlay.work)
    code, text = containers.run(containers.spec("sh", "-c", "ls / | grep -c ^layer"), mount=mount)
    assert (code, text) == (0, "300\n")


@pytest.mark.parametrize("count", [3, 60])
def test_the_overlay_of_older_kernels(containers, monkeypatch, tmp_path, busybox_root, count):
    """Without lowerdir+ all layers go into one option string, with names that need escapes."""
    base = tmp_path / "la:y,ers\\x"
    lowers = []
    for number in range(count):
        layer = base / str(number)
        layer.mkdir(parents=True)
        (layer / f"layer{number}").touch()
        lowers.append(str(layer))
    mount = Mount(type="overlay", lower=(*lowers, str(busybox_root)), upper=containers.overlay.upper,
                  work=containers.overlay.work)
    monkeypatch.setattr(rootfs, "open_overlay", lambda mount: -1)
    code, text = containers.run(containers.spec("sh", "-c", "ls / | grep -c ^layer"), mount=mount)
    assert (code, text) == (0, f"{count}\n")


def test_a_read_only_view(containers, busybox_root):
    for name in ("proc", "dev", "sys"):
        (containers.path / "upper" / name).mkdir()
    mount = Mount(type="overlay", lower=(str(containers.path / "upper"), str(busybox_root)))
    code, text = containers.run(containers.spec("sh", "-c", "mkdir /x || cat /etc/group | head -1"), mount=mount)
    assert code == 0
    assert text.endswith("Read-only file system\nroot:x:0:\n")


@pytest.mark.parametrize(("args", "errno_", "exit_code"), [
    (["absent"], errno.ENOENT, 127), (["/absent"], errno.ENOENT, 127), (["/etc"], errno.EISDIR, 126),
    (["/etc/passwd"], errno.EACCES, 126)])
def test_what_keeps_a_program_from_starting_is_data(containers, args, errno_, exit_code):
    spec = containers.spec(*args)
    with pytest.raises(RuntimeFailure) as caught:
        containers.create(spec)
    assert (caught.value.stage, caught.value.errno, caught.value.exit_code) == ("exec", errno_, exit_code)
    assert not any(os.path.exists(path) for path in containers.cgroup.paths().values())


def test_an_exec_that_the_kernel_refuses(containers, busybox_root):
    script = containers.path / "upper/script"
    script.write_bytes(b"no format that anybody knows")
    script.chmod(0o755)
    created = containers.create(containers.spec("/script"))
    with pytest.raises(RuntimeFailure) as caught:
        created.start()
    assert (caught.value.stage, caught.value.errno, caught.value.exit_code) == ("exec", errno.ENOEXEC, 126)
    assert str(caught.value) == "exec /script: exec format error"


@pytest.mark.parametrize(("user", "groups", "expected"), [
    ("worker", "", "1000 1001 1001,29"), ("worker:audio", "", "1000 29 29"), ("1000", "", "1000 1001 1001,29"),
    ("4711", "", "4711 0 0"), ("4711:4712", "audio,9", "4711 4712 4712,29,9"), ("", "", "0 0 0")])
def test_users_and_groups_by_name(containers, user, groups, expected):
    spec = containers.spec("sh", "-c", "echo $(id -u) $(id -g) $(id -G | tr ' ' ,)")
    spec.annotations = {"org.barque.user": user, "org.barque.groups": groups}
    code, text = containers.run(spec)
    assert code == 0
    # id(1) lists the group ids in any order.
    uid, gid, listed = text.split()
    assert [uid, gid, sorted(listed.split(","))] == [*expected.split()[:2], sorted(expected.split()[2].split(","))]


@pytest.mark.parametrize(("user", "text"), [
    ("ghost", "unable to find user ghost: no matching entries in passwd file"),
    ("root:ghost", "unable to find group ghost: no matching entries in group file"),
    ("4294967295", "uids and gids must be in range 0-4294967294"),
    ("9" * 100000, "uids and gids must be in range 0-4294967294")])
def test_users_that_do_not_exist(containers, user, text):
    spec = containers.spec("true")
    spec.annotations = {"org.barque.user": user}
    with pytest.raises(RuntimeFailure) as caught:
        containers.create(spec)
    assert (caught.value.stage, str(caught.value)) == ("user", text)


def test_a_missing_working_directory_is_made_unless_told_otherwise(containers):
    spec = containers.spec("pwd")
    assert spec.process
    spec.process.cwd = "/not/there"
    spec.annotations = {"org.barque.cwd.create": "false"}
    with pytest.raises(RuntimeFailure) as caught:
        containers.create(spec)
    assert caught.value.stage == "cwd"
    assert "no such file or directory" in str(caught.value)
    spec.annotations = {"org.barque.cwd.create": "true"}
    assert containers.run(spec) == (0, "/not/there\n")


def test_a_missing_bind_source_says_its_path(containers):
    containers.bundle.spec["mounts"].append({"destination": "/x", "type": "bind", "source": "/does/not/exist",
                                             "options": ["rbind"]})
    with pytest.raises(RuntimeFailure) as caught:
        containers.create(containers.spec("true"))
    assert (caught.value.errno, caught.value.path) == (errno.ENOENT, "/does/not/exist")


def test_exec_joins_everything(containers):
    spec = containers.spec("sleep", "1000")
    created = containers.create(spec)
    created.start()
    script = ("for n in pid net ipc uts mnt cgroup; do [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] "
              "|| echo $n; done; cmp /proc/self/cgroup /proc/1/cgroup; exit 9")
    assert spec.process
    wanted = Process(args=["sh", "-c", script], env=["PATH=/bin"], capabilities=spec.process.capabilities)
    done = exec_process(containers.target(created, spec), wanted,
                        Stdio((containers.null, containers.sink, containers.sink)))
    assert exit_code(done.pidfd) == 9
    os.close(done.pidfd)
    assert containers.written() == ""


def test_exec_as_a_user_by_name(containers):
    spec = containers.spec("sleep", "1000")
    created = containers.create(spec)
    created.start()
    wanted = Process(args=["sh", "-c", "id -un; id -G; echo $HOME"], env=["PATH=/bin"], user=User(username="worker"))
    done = exec_process(containers.target(created, spec), wanted,
                        Stdio((containers.null, containers.sink, containers.sink)))
    assert exit_code(done.pidfd) == 0
    os.close(done.pidfd)
    assert containers.written().split() == ["worker", "1001", "29", "/home/worker"]


def test_exec_has_a_terminal_of_the_container(containers):
    spec = containers.spec("sleep", "1000")
    created = containers.create(spec)
    created.start()
    wanted = Process(args=["sh", "-c", "tty; stty size; test -c /dev/tty && echo x > /dev/tty"], env=["PATH=/bin"],
                     terminal=True, console_size=Box(height=11, width=22))
    done = exec_process(containers.target(created, spec), wanted, Stdio(None))
    assert done.console is not None
    text = read_until(done.console, b"x\r\n")
    assert exit_code(done.pidfd) == 0
    os.close(done.console)
    os.close(done.pidfd)
    assert text.decode().split("\r\n")[:2] == ["/dev/pts/0", "11 22"]


@pytest.mark.parametrize(("args", "exit_code"), [(["absent"], 127), (["/etc"], 126)])
def test_exec_of_what_cannot_run(containers, args, exit_code):
    spec = containers.spec("sleep", "1000")
    created = containers.create(spec)
    created.start()
    with pytest.raises(RuntimeFailure) as caught:
        exec_process(containers.target(created, spec), Process(args=args, env=["PATH=/bin"]),
                     Stdio((containers.null, containers.sink, containers.sink)))
    assert caught.value.exit_code == exit_code


@pytest.mark.parametrize("reaped", [False, True])
def test_exec_into_a_container_that_has_ended(containers, reaped):
    spec = containers.spec("true")
    created = containers.create(spec)
    created.start()
    assert process.ended(created.pidfd, ANSWER)
    if reaped:
        process.wait(created.pidfd)
    with pytest.raises(RuntimeFailure) as caught:
        exec_process(containers.target(created, spec), Process(args=["true"], env=["PATH=/bin"]),
                     Stdio((containers.null, containers.sink, containers.sink)))
    assert str(caught.value) == "cannot exec in a stopped container"


def test_a_caller_that_goes_away_takes_the_waiting_process_along(containers):
    created = containers.create(containers.spec("true"))
    created.close_channel()
    assert process.ended(created.pidfd, ANSWER)


def test_nothing_is_imported_between_fork_and_exec():
    """In a fresh interpreter: the modules of the way to the program are there before the fork, and no thread's."""
    import subprocess
    import sys

    script = ("import sys, barque.runtime.create, barque.runtime.process, barque.runtime.interpreter\n"
              "bad = {'asyncio', 'threading', 'concurrent', 'subprocess', 'multiprocessing', 'logging', 'sqlite3'}\n"
              "print(sorted(bad & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True,
                          timeout=ANSWER)
    assert done.stdout == "[]\n"


def test_the_first_process_enters_its_cgroup_by_itself(containers, monkeypatch):
    """The caller's way into version 1's would wait for a grace period of RCU: 10 ms, and the child with it."""
    monkeypatch.setattr(type(containers.cgroup), "add", lambda *_: pytest.fail("the caller put it there"))
    created = containers.create(containers.spec("true"))
    for path in containers.cgroup.paths().values():
        with open(f"{path}/cgroup.procs") as file:
            assert str(created.pid) in file.read().split()
