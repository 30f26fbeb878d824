"""Flags of run and create become the API's documents as docker's do."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from barque.cli.commands import build_request, run
from barque.cli.commands.run import run_flags
from barque.cli.flags import FlagError, Values, parse
from barque.cli.spec.container import request
from barque.oci import reference


def body(*words: str, proxies: dict[str, str] | None = None) -> dict[str, Any]:
    values = parse(run_flags(), [*words, "image", "cmd"], interspersed=False)
    image, *command = values.arguments
    return request(values, image, command, proxies or {})


def host(*words: str) -> dict[str, Any]:
    document: dict[str, Any] = body(*words)["HostConfig"]
    return document


def test_plain() -> None:
    document = body()
    assert (document["Image"], document["Cmd"], document["Entrypoint"], document["Env"]) == ("image", ["cmd"], None,
                                                                                             None)
    assert (document["AttachStdin"], document["AttachStdout"], document["OpenStdin"]) == (False, True, False)
    assert document["NetworkingConfig"] == {"EndpointsConfig": {"default": {}}}
    assert document["HostConfig"]["NetworkMode"] == "default"
    assert document["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert "Init" not in document["HostConfig"]


def test_streams() -> None:
    interactive = body("-i", "-a", "STDERR")
    assert [interactive[key] for key in ("AttachStdin", "AttachStdout", "AttachStderr", "StdinOnce")] == [
        True, False, True, True]


def test_ports() -> None:
    document = body("-p", "8080:80", "-p", "127.0.0.1::53/udp", "-p", "[::1]:1-2:3-4", "-p", "9000-9001:90", "--expose",
                    "5-6/tcp", "-p", "published=7,target=8,protocol=udp")
    assert document["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}], "53/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
        "3/tcp": [{"HostIp": "::1", "HostPort": "1"}], "4/tcp": [{"HostIp": "::1", "HostPort": "2"}],
        "90/tcp": [{"HostIp": "", "HostPort": "9000-9001"}], "8/udp": [{"HostIp": "", "HostPort": "7"}]}
    assert set(document["ExposedPorts"]) == {"80/tcp", "53/udp", "3/tcp", "4/tcp", "90/tcp", "8/udp", "5/tcp", "6/tcp"}


def test_volumes_and_mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    document = body("-v", "/data", "-v", "name:/x:ro", "-v", "./here:/y", "--tmpfs", "/t:size=1m", "--mount",
                    "type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave", "--mount",
                    "type=tmpfs,dst=/c,tmpfs-size=1m,tmpfs-mode=1770", "--mount",
                    "dst=/d,volume-opt=o=ro,volume-nocopy")
    assert document["Volumes"] == {"/data": {}}
    assert document["HostConfig"]["Binds"] == ["name:/x:ro", f"{tmp_path}/here:/y"]
    assert document["HostConfig"]["Tmpfs"] == {"/t": "size=1m"}
    assert document["HostConfig"]["Mounts"] == [
        {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True, "BindOptions": {"Propagation": "rslave"}},
        {"Type": "tmpfs", "Target": "/c", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}},
        {"Type": "volume", "Target": "/d",
         "VolumeOptions": {"DriverConfig": {"Options": {"o": "ro"}}, "NoCopy": True}}]


def test_resources() -> None:
    limits = host("-m", "64m", "--memory-swap", "-1", "--cpus", "1.5", "--pids-limit", "-1", "--ulimit", "nofile=1:2",
                  "--device", "/dev/null:/dev/x:r", "--device", "/dev/zero", "--device", "vendor.com/gpu=0",
                  "--device-read-bps", "/dev/sda:1mb", "--blkio-weight-device", "/dev/sda:100", "--gpus", "all")
    assert (limits["Memory"], limits["MemorySwap"], limits["NanoCpus"], limits["PidsLimit"]) == (
        64 << 20, -1, 1_500_000_000, -1)
    assert limits["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}]
    assert limits["Devices"] == [
        {"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"},
        {"PathOnHost": "/dev/zero", "PathInContainer": "/dev/zero", "CgroupPermissions": "rwm"}]
    assert limits["BlkioDeviceReadBps"] == [{"Path": "/dev/sda", "Rate": 1 << 20}]
    assert [item["Driver"] for item in limits["DeviceRequests"]] == ["", "cdi"]
    assert limits["DeviceRequests"][0]["Count"] == -1


def test_networks() -> None:
    document = body("--network", "back", "--network-alias", "db", "--ip", "10.0.0.9", "--link", "a:b")
    assert document["HostConfig"]["NetworkMode"] == "back"
    assert document["NetworkingConfig"]["EndpointsConfig"] == {
        "back": {"Aliases": ["db"], "Links": ["a:b"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}}}
    long_form = body("--network", "name=back,alias=db,driver-opt=k=v", "--network", "front")
    assert long_form["NetworkingConfig"]["EndpointsConfig"] == {
        "back": {"Aliases": ["db"], "DriverOpts": {"k": "v"}}, "front": {}}
    assert body("--network", "host")["NetworkingConfig"] == {"EndpointsConfig": {}}


def test_environment_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "1")
    monkeypatch.delenv("NOT_HERE", raising=False)
    (tmp_path / "env").write_text("# comment\nA=1\n\nFROM_HERE\nNOT_HERE\nB= with spaces \n")
    document = body("-e", "X=y=z", "-e", "FROM_HERE", "-e", "NOT_HERE", "--env-file", str(tmp_path / "env"), "-l", "k",
                    "-l", "a=b", proxies={"HTTP_PROXY": "p", "X": "no"})
    assert document["Env"] == ["A=1", "FROM_HERE=1", "B= with spaces ", "X=y=z", "FROM_HERE=1", "NOT_HERE",
                               "HTTP_PROXY=p"]
    assert document["Labels"] == {"k": "", "a": "b"}


def test_health_and_rest() -> None:
    document = body("--health-cmd", "true", "--health-interval", "2s", "--health-retries", "3", "--stop-timeout", "5",
                    "--entrypoint", "", "--init", "--security-opt", "systempaths=unconfined", "--restart",
                    "on-failure:3")
    assert document["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 2_000_000_000, "Retries": 3}
    assert (document["StopTimeout"], document["Entrypoint"]) == (5, [""])
    host_config = document["HostConfig"]
    assert (host_config["Init"], host_config["MaskedPaths"], host_config["SecurityOpt"]) == (True, [], None)
    assert host_config["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}


@pytest.mark.parametrize(("words", "error"), [
    (["--memory-swappiness", "300"], "invalid value: 300. Valid memory swappiness range is 0-100"),
    (["--pid", "x"], "--pid: invalid PID mode"),
    (["--rm", "--restart", "always"], "conflicting options: cannot specify both --restart and --rm"),
    (["--no-healthcheck", "--health-cmd", "x"], "--no-healthcheck conflicts with --health-* options"),
    (["--network-alias", "x"], "network-scoped aliases are only supported for user-defined networks"),
    (["--network", "a", "--network", "a"], 'network "a" is specified multiple times'),
    (["--mac-address", "zz"], "zz is not a valid mac address"),
    (["--device", "x"], "x is not an absolute path"),
    (["-p", "1-3:80-81"], "invalid ranges specified for container and host Ports: 80-81 and 1-3"),
    (["-v", "a::b"], "invalid spec: a::b: empty section between colons"),
])
def test_refusals(words: list[str], error: str) -> None:
    with pytest.raises(ValueError) as caught:
        body(*words)
    assert str(caught.value) == error


@pytest.mark.parametrize(("words", "error"), [
    (["--ulimit", "foo=1"], "invalid ulimit type: foo"),
    (["--cpus", "x"], "failed to parse x as a rational number"),
    (["--mount", "type=bind"], "target is required"),
    (["--add-host", "x"], 'bad format for add-host: "x"'),
    (["--sysctl", "foo=1"], "sysctl 'foo=1' is not allowed"),
    (["--disable-content-trust=false"], "content trust is not supported"),
])
def test_flag_refusals(words: list[str], error: str) -> None:
    with pytest.raises(FlagError) as caught:
        body(*words)
    assert caught.value.message.endswith(f"flag: {error}")


@pytest.mark.parametrize("text", ["httpd", "a/b", "h.io:5000/a/b-c:1.2_x", "127.0.0.1:5/a:T", "a__b", "a..b", "A", "a:",
                                  "a:-x", "/a", "a/", "a//b", "-a", "h:x/a", "h:/a", "a:b:c", "a@sha256:0", "", "ä",
                                  "a:ä", "a" * 300,
                                  "a:" + "x" * 129, "localhost:5000/x", "a b"])
def test_what_looks_like_an_ordinary_reference_is_one(text: str) -> None:
    ordinary = {"httpd", "a/b", "h.io:5000/a/b-c:1.2_x", "127.0.0.1:5/a:T", "localhost:5000/x"}
    assert run.is_plain(text) == (text in ordinary)
    if text in ordinary:
        assert reference.parse(text)


def test_compressed_build_contexts(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "zeros").write_bytes(bytes(1 << 20))
    sent = {}
    for compress in (False, True):
        values = Values({"file": "", "compress": compress})
        body = build_request.context(str(tmp_path), values).body
        assert body is not None
        sent[compress] = b"".join(body())
    assert gzip.decompress(sent[True]) == sent[False]
    assert len(sent[True]) < len(sent[False]) // 100
