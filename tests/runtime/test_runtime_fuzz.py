"""Documents that nobody wrote on purpose: whatever is in config.json, the runtime runs it or says why not, and leaves
nothing behind.

Left as they are: where the root is and which cgroup, since with others the document would be at work on the host's own.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from barque.errors import BarqueError
from barque.oci import go_json
from barque.oci.runtime_spec import Spec, decode
from barque.runtime import cgroups
from barque.runtime.create import CreateRequest, RuntimeFailure, Stdio, create
from barque.runtime.default_spec import default_document
from barque.runtime.options import PROPAGATIONS, WORDS
from barque.sys import namespaces, process

KEPT = {("root", "path"), ("linux", "cgroupsPath"), ("linux", "namespaces")}

texts = st.one_of(st.sampled_from(["", "/", ".", "..", "/proc", "/proc/self/exe", "a\0b", "%s", "x" * 5000, "\ud800",
                                   "-1", "CAP_CHOWN", "SCMP_ACT_ALLOW", "RLIMIT_NOFILE", "/dev/null", "tmpfs", "bind"]),
                  st.text(max_size=20))
sizes = st.integers(0, 70000)
numbers = st.one_of(sizes, sizes, sizes, st.integers(-3, 3), st.sampled_from(
    [-1 << 63, (1 << 63) - 1, 1 << 64, 1 << 80, 4294967295]))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.floats(), texts)
values = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=3),
                                                       st.dictionaries(texts, inner, max_size=3)), max_leaves=6)

words = st.sampled_from([*WORDS, "remount", "size=64k", "mode=755", "mode=9", "uid=1", "nr_inodes=2", "gid=5",
                         "newinstance", "context=x", "what"])
places = st.sampled_from(["/a", "/a/b/c", "/proc", "/proc/self", "/proc/meminfo", "/dev", "/dev/pts", "/dev/shm",
                          "/sys", "/sys/fs/cgroup", "/etc", "/etc/passwd", "/", "..", "relative", "/bin/busybox"])
mounts = st.fixed_dictionaries(
    {"destination": places}, optional={
        "type": st.sampled_from(["", "bind", "tmpfs", "proc", "sysfs", "mqueue", "devpts", "cgroup", "cgroup2", "none",
                                 "nosuch", "ramfs"]),
        "source": st.sampled_from(["", "tmpfs", "/tmp", "/etc/passwd", "/nosuch", "relative", "/dev/null"]),
        "options": st.lists(words, max_size=5)})
ranges = st.lists(st.fixed_dictionaries({"containerID": numbers, "hostID": numbers, "size": numbers}), max_size=2)
spaces = st.lists(st.builds(lambda kind, path: {"type": kind, "path": path} if path else {"type": kind},
                            st.sampled_from([*namespaces.FLAGS, "nosuch"]),
                            st.sampled_from(["", "", "", "/nosuch", "/proc/self/ns/net", "/dev/null"])), max_size=8)
rules = st.lists(st.fixed_dictionaries({"names": st.lists(st.sampled_from(["mkdir", "write", "execve", "x"])), "action":
                                        st.sampled_from(["SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_KILL", "nosuch"])},
                                       optional={"errnoRet": numbers, "args": values}), max_size=3)

#: Parts that are right in form, so that more than the decoder is reached.
PARTS: dict[tuple[str, ...], st.SearchStrategy[Any]] = {
    ("mounts",): st.lists(mounts, max_size=4),
    ("linux", "namespaces"): spaces,
    ("linux", "uidMappings"): ranges,
    ("linux", "gidMappings"): ranges,
    ("linux", "seccomp"): st.fixed_dictionaries({"defaultAction": st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"]),
                                                 "syscalls": rules}),
    ("linux", "sysctl"): st.dictionaries(st.sampled_from(["net.ipv4.ip_forward", "kernel.shmmax", "fs.mqueue.msg_max",
                                                          "net.../x", "kernel.hostname"]), texts, max_size=2),
    ("linux", "maskedPaths"): st.lists(places, max_size=3),
    ("linux", "readonlyPaths"): st.lists(places, max_size=3),
    ("linux", "rootfsPropagation"): st.sampled_from(["", *PROPAGATIONS, *(f"r{word}" for word in PROPAGATIONS), "x"]),
    ("linux", "devices"): st.lists(st.fixed_dictionaries(
        {"path": st.sampled_from(["/dev/x", "/dev/null", "/x/y", "/", ""]),
         "type": st.sampled_from(["c", "b", "p", "u", "z"])},
        optional={"major": numbers, "minor": numbers, "fileMode": numbers, "uid": numbers}), max_size=2),
    ("linux", "resources"): st.dictionaries(st.sampled_from(["memory", "cpu", "pids", "blockIO", "devices", "unified",
                                                             "hugepageLimits", "rdma", "network"]), values, max_size=1),
    ("linux", "resources", "memory"): st.dictionaries(st.sampled_from(["limit", "swap", "reservation"]), numbers),
    ("linux", "resources", "pids"): st.fixed_dictionaries({"limit": numbers}),
    ("process", "user"): st.fixed_dictionaries({"uid": numbers, "gid": numbers},
                                               optional={"umask": numbers, "additionalGids": st.lists(numbers)}),
    ("process", "cwd"): st.sampled_from(["/", "/etc", "/new/place", "/etc/passwd", "relative", "/proc/self/fd/4"]),
    ("process", "rlimits"): st.lists(st.fixed_dictionaries({"type": st.sampled_from(["RLIMIT_NOFILE", "RLIMIT_X"]),
                                                            "hard": numbers, "soft": numbers}), max_size=2),
    ("process", "oomScoreAdj"): numbers,
    ("process", "terminal"): st.booleans(),
    ("hooks",): st.dictionaries(st.sampled_from(["prestart", "createRuntime", "createContainer", "startContainer",
                                                 "poststart", "poststop"]),
                                st.lists(st.fixed_dictionaries({"path": st.sampled_from(["/bin/true", "/nosuch", "x"])},
                                                               optional={"timeout": st.sampled_from([0, 5])}),
                                         max_size=2), max_size=2),
    ("hostname",): texts, ("domainname",): texts, ("root", "readonly"): st.booleans(),
    ("annotations",): st.dictionaries(st.sampled_from(["org.barque.user", "org.barque.groups", "x"]), texts,
                                      max_size=2),
}


def paths(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if (*above, key) not in KEPT:
            yield (*above, key)
            yield from paths(value, (*above, key))


def put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    """Set the value at ``path``; nothing where an earlier change has taken the way there."""
    try:
        for key in path[:-1]:
            tree = tree[key]
        if isinstance(tree, dict) or (isinstance(tree, list) and path[-1] < len(tree)):
            tree[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        return


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    try:
        for key in path:
            tree = tree[key]
    except (KeyError, IndexError, TypeError):
        return None
    return tree


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Mostly of the same type, since the decoder refuses the others."""
    same = texts if isinstance(value, str) else numbers if isinstance(value, int) else values
    return st.one_of(same, same, same, values)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    document = copy.deepcopy(default_document())
    document["process"].update(terminal=False, args=["true"])
    document["root"]["readonly"] = False
    everywhere = list(paths(document))
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.integers(0, 4)):
            place = draw(st.sampled_from(list(PARTS)))
            put(document, place, draw(PARTS[place]))
        else:
            place = draw(st.sampled_from(everywhere))
            put(document, place, draw(alike(at(document, place))))
    return document


def attempt(bundle: Any, document: dict[str, Any], null: int) -> None:
    """Create, start and end it; what may come out is a refusal in our own words."""
    cgroup = cgroups.manager(bundle.cgroup)
    try:
        spec = decode(json.dumps(document).encode())
        made = create(CreateRequest(id="fuzz", bundle=str(bundle.path), spec=spec, cgroup=cgroup,
                                    stdio=Stdio(None if spec.process and spec.process.terminal else (null,) * 3)))
    except (BarqueError, RuntimeFailure) as error:
        assert str(error)
        event(f"refused: {type(error).__name__}")
        return
    event("created")
    try:
        made.start()
        assert process.ended(made.pidfd, 30)
    except RuntimeFailure as error:
        assert str(error)
    finally:
        process.kill_and_reap(process.Clone(made.pid, made.pidfd))
        if made.console is not None:
            os.close(made.console)
        cgroup.destroy()


@pytest.fixture
def null() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_RDWR)
    yield fd
    os.close(fd)


@settings(max_examples=200, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(document=documents())
def test_documents_of_chance(bundle, null, document):
    before = len(os.listdir("/proc/self/fd"))
    attempt(bundle, document, null)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not any(os.path.exists(path) for path in cgroups.manager(bundle.cgroup).paths().values())


@settings(max_examples=300, deadline=None, database=None)
@given(text=st.one_of(st.binary(max_size=200), st.builds(lambda tree: json.dumps(tree).encode(), values)))
def test_bytes_of_chance(text):
    try:
        decode(text)
    except BarqueError as error:
        assert str(error)


def outcome(decoder: Any, *arguments: Any) -> Any:
    try:
        return decoder(*arguments)
    except BarqueError as error:
        return str(error)


@settings(max_examples=60, deadline=None, database=None)
@given(document=documents(), data=st.data())
def test_documents_without_gos_habits_are_read_as_those_with(document, data):
    """The short way past the inspection of types leads to the same values, and to the same words where it fails."""
    place = data.draw(st.sampled_from([path for path in paths(document) if isinstance(path[-1], str)]))
    parent = at(document, place[:-1])
    if isinstance(parent, dict) and place[-1] in parent:
        spelled = data.draw(st.sampled_from([place[-1], place[-1].upper(), "x" + place[-1]]))
        parent[spelled] = data.draw(st.sampled_from([parent[place[-1]], None, 1 << 70]))
    text = json.dumps(document).encode()
    assert outcome(decode, text) == outcome(go_json.decode, text, Spec)
