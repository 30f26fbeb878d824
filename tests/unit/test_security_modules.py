"""What the engine makes of ``--security-opt apparmor=`` and ``label=``; virtual machines show the kernel's part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from barque.engine import apparmor, selinux
from barque.engine.containers import security
from barque.engine.containers.options import HostConfig
from barque.engine.host import Host, probe
from barque.errors import InvalidArgument, Unsupported
from barque.oci import runtime_spec as oci
from barque.oci.mount import Mount
from barque.runtime import plan
from barque.runtime.cgroups import known_layout
from barque.runtime.mounts import Filesystem
from barque.runtime.rootfs import MountRoot

HOST = selinux.Labels("system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0")


def machine(*, kernel: bool = True, parser: str | None = "/sbin/apparmor_parser") -> Host:
    return replace(probe((), (), cgroup_v2=True, controllers=frozenset(), swap_limit=True), apparmor=kernel,
                   apparmor_parser=parser, selinux=False)


@pytest.mark.parametrize(("options", "privileged", "profile"), [
    (None, False, apparmor.DEFAULT), (["apparmor=docker-default"], False, apparmor.DEFAULT),
    (None, True, "unconfined"), (["apparmor=unconfined"], False, "unconfined"), (["apparmor:mine"], True, "mine"),
    (["apparmor=one", "apparmor=two"], False, "two"), (["apparmor=docker-default"], True, apparmor.DEFAULT)])
def test_profiles(options: list[str] | None, privileged: bool, profile: str) -> None:
    host = HostConfig(security_opt=options, privileged=privileged)
    security.check_security_options(host, machine(), selinux=False)
    assert security.apparmor_profile(host, machine()) == profile
    assert security.apparmor_profile(host, machine(kernel=False)) == ""


def test_no_default_without_a_program_to_load_it() -> None:
    assert security.apparmor_profile(HostConfig(), machine(parser=None)) == ""
    assert security.apparmor_profile(HostConfig(security_opt=["apparmor=mine"]), machine(parser=None)) == "mine"


@pytest.mark.parametrize(("option", "host", "text"), [
    ("apparmor=mine", machine(kernel=False), "AppArmor is not available on this host: cannot apply profile mine"),
    ("apparmor=barque-default", machine(parser=None), "there is no apparmor_parser on this host"),
    ("label=type:x_t", machine(), "cannot apply label type:x_t: SELinux is not available on this host"),
    ("label=type:x_t", replace(machine(), selinux=True), "--selinux-enabled is not set")])
def test_what_cannot_be_had(option: str, host: Host, text: str) -> None:
    with pytest.raises(Unsupported, match=text):
        security.check_security_options(HostConfig(security_opt=[option]), host, selinux=False)


@pytest.mark.parametrize(("options", "labels"), [
    (["level:s0:c1,c2"], selinux.Labels("system_u:system_r:container_t:s0:c1,c2",
                                       "system_u:object_r:container_file_t:s0:c1,c2")),
    (["type:mine_t", "level:s0"], selinux.Labels("system_u:system_r:mine_t:s0", HOST.mount)),
    (["filetype:mine_t", "level:s0"], selinux.Labels(HOST.process, "system_u:object_r:mine_t:s0")),
    (["user:u", "role:r", "level:s0"], selinux.Labels("u:r:container_t:s0", "u:object_r:container_file_t:s0")),
    (["disable"], selinux.Labels("", HOST.mount))])
def test_labels(options: list[str], labels: selinux.Labels) -> None:
    assert selinux.choose(HOST, options, ()) == labels


def test_each_container_has_a_level_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([[7, 3], [3, 7], [9, 8], [1, 2]])
    monkeypatch.setattr(selinux.random, "sample", lambda *_: next(drawn))
    first = selinux.choose(HOST, [], ())
    assert selinux.level_of(first.process) == selinux.level_of(first.mount) == "s0:c3,c7"
    assert selinux.level_of(selinux.choose(HOST, [], {"s0:c3,c7"}).process) == "s0:c8,c9"
    assert selinux.choose(HOST, selinux.same_as(first.process), ()) == first


def test_a_policy_without_levels() -> None:
    host = selinux.Labels("u:r:c_t", "u:object_r:f_t")
    assert selinux.choose(host, [], ()) == host


@pytest.mark.parametrize("option", ["", "nonsense", "type:", "colour:red"])
def test_bad_labels(option: str) -> None:
    with pytest.raises(InvalidArgument, match="bad label option"):
        selinux.check_label(option)


def test_contexts_of_the_policy(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("# SELINUXTYPE=no\nSELINUX=enforcing\nSELINUXTYPE=mine\n")
    with pytest.raises(selinux.NoContexts, match="lxc_contexts: no such file"):
        selinux.of_host(str(config))
    contexts = tmp_path / "mine/contexts"
    contexts.mkdir(parents=True)
    (contexts / "lxc_contexts").write_text(f'process = "{HOST.process}"\n')
    with pytest.raises(selinux.NoContexts, match="no line for 'file'"):
        selinux.of_host(str(config))
    (contexts / "lxc_contexts").write_text(f'process = "{HOST.process}"\nfile = "{HOST.mount}"\nro_file = "x"\n')
    assert selinux.of_host(str(config)) == HOST


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/", "/home/../etc"])
def test_the_hosts_own_directories_keep_their_labels(path: str) -> None:
    with pytest.raises(InvalidArgument, match="is not allowed"):
        selinux.relabel(path, HOST.mount, shared=False)


def test_what_the_runtime_labels() -> None:
    spec = oci.Spec(oci_version=oci.OCI_VERSION, root=oci.Root("rootfs"), process=oci.Process(args=["x"]), mounts=[
        oci.Mount("/tmp", "tmpfs", "tmpfs"), oci.Mount("/proc", "proc", "proc"), oci.Mount("/dev/mqueue", "mqueue")],
        linux=oci.Linux(namespaces=[oci.Namespace("mount")], mount_label=HOST.mount))
    steps, _ = plan.build(spec, "/", (Mount("overlay", lower=("/a",)),), Mount, known_layout(), make_cwd=False)
    roots = [step.mount.options for step in steps if isinstance(step, MountRoot) and step.mount]
    assert roots == [(f"context={HOST.mount}",)]
    labelled = {step.destination: (step.options.data, step.label) for step in steps if isinstance(step, Filesystem)}
    assert labelled == {"/tmp": ((("context", HOST.mount),), ""), "/proc": ((), ""), "/dev/mqueue": ((), HOST.mount)}
