"""dockerd's flags and configuration file."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

import barque
from barque.config import Config, ForeignRuntime, Pool
from barque.daemon_options import OPTIONS, REFUSED, BadOption, combine, parse_flags, parse_size, read_file, usage


def config(*argv: str, file: dict[str, object] | None = None) -> Config:
    return combine(parse_flags(list(argv)).values, file or {}, "/etc/barque/daemon.json")


def test_flags_in_all_spellings() -> None:
    made = config("-H", "unix:///a", "--host=tcp://[::1]:1", "-Hfd://", "-D", "--mtu=1400", "--bip", "10.1.0.1/16",
                  "--default-address-pool", "base=10.0.0.0/8,size=24", "--live-restore=false", "--insecure-registry",
                  "a",
                  "--default-ulimit", "nofile=1:2", "--log-opt", "max-size=1m", "--add-runtime", "crun=/usr/bin/crun",
                  "--default-shm-size", "1g", "--exec-opt", "native.cgroupdriver=cgroupfs")
    assert made.hosts == ("unix:///a", "tcp://[::1]:1", "fd://")
    assert (made.debug, made.log_level, made.mtu, made.bip) == (True, "debug", 1400, "10.1.0.1/16")
    assert made.default_address_pools == (Pool("10.0.0.0/8", 24),)
    assert made.default_ulimits == {"nofile": (1, 2)}
    assert made.runtimes == {"crun": ForeignRuntime("/usr/bin/crun")}
    assert (made.log_opts, made.default_shm_size) == ({"max-size": "1m"}, 1 << 30)


@pytest.mark.parametrize(("argv", "text"), [
    (["--nope"], "unknown flag: --nope"),
    (["-x"], "unknown shorthand flag: -x"),
    (["--mtu"], "flag needs an argument: --mtu"),
    (["--mtu=x"], 'invalid argument "x" for "--mtu" flag: strconv.ParseInt: parsing "x": invalid syntax'),
    (["--debug=maybe"], 'invalid argument "maybe" for "--debug" flag'),
    (["run"], 'unexpected argument: "run"'),
    (["--userns-remap=default"], "--userns-remap=default is not supported"),
    (["--iptables=false"], "--iptables=false is not supported"),
])
def test_bad_flags(argv: list[str], text: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_flags(argv)
    assert text in str(caught.value)


def test_refused_flags_with_harmless_values_are_fine() -> None:
    config("--userland-proxy=false", "--iptables", "--storage-driver", "overlay2", "--ipv6=false")


@pytest.mark.parametrize("name", ["barque", "runc", "io.containerd.runc.v2"])
def test_the_default_runtime_by_the_names_that_dockerd_has(name: str) -> None:
    assert config("--default-runtime", name).default_runtime == name


@pytest.mark.parametrize(("argv", "text"), [
    (["--log-level", "loud"], "invalid logging level: loud"),
    (["--default-runtime", "x"], "specified default runtime 'x' does not exist"),
    (["--exec-opt", "native.cgroupdriver=x"], "native.cgroupdriver option x is not supported"),
    (["--label", "x"], "bad attribute format: x"),
    (["--max-concurrent-downloads=0"], "invalid max concurrent downloads: 0"),
    (["--seccomp-profile", "x"], "seccomp profile needs an absolute path"),
])
def test_values_that_make_no_sense(argv: list[str], text: str) -> None:
    with pytest.raises(BadOption) as caught:
        config(*argv)
    assert text in str(caught.value)


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps({"hosts": ["unix:///b"], "debug": True, "tlsverify": True, "registry-mirrors": ["http://m"],
                                "runtimes": {"r": {"path": "/r", "runtimeArgs": ["-x"]}}, "userland-proxy": False,
                                "default-address-pools": [{"base": "10.0.0.0/8", "size": 20}]}))
    values = read_file(str(path), required=True)
    made = combine({}, values, str(path))
    assert (made.hosts, made.registry_mirrors, made.tls.enabled) == (("unix:///b",), ("http://m",), True)
    assert made.runtimes == {"r": ForeignRuntime("/r", ("-x",))}


@pytest.mark.parametrize(("text", "message"), [
    ('{"nope": 1}', "the following directives don't match any configuration option: nope"),
    ('{"debug": "yes"}', "debug: want bool"), ("[]", "want an object"),
    ("{", "unable to configure the daemon with file"),
    ('{"labels": "x"}', "labels: want a list of strings"), ('{"userns-remap": "default"}', "is not supported"),
])
def test_a_bad_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    with pytest.raises(BadOption) as caught:
        read_file(str(path), required=True)
    assert message in str(caught.value)


def test_one_directive_in_both_places() -> None:
    with pytest.raises(BadOption) as caught:
        config("--debug", file={"debug": False})
    assert ("the following directives are specified both as a flag and in the configuration file: "
            "debug: (from flag: true, from file: false)") in str(caught.value)


@pytest.mark.parametrize("text", [
    '{"features": {"buildkit": true}}', '{"features": {"containerd-snapshotter": false}}'])
def test_features_that_are_so_anyway(tmp_path: Path, text: str) -> None:
    (tmp_path / "daemon.json").write_text(text)
    assert read_file(str(tmp_path / "daemon.json"), required=True) == {}
    (tmp_path / "daemon.json").write_text(text.replace("snapshotter", "x").replace("true", "false"))
    with pytest.raises(BadOption, match=r"features=\{.*false\} is not supported"):
        read_file(str(tmp_path / "daemon.json"), required=True)


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    assert read_file(str(tmp_path / "none"), required=False) == {}
    with pytest.raises(BadOption, match="no such file or directory"):
        read_file(str(tmp_path / "none"), required=True)


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("64m", 64 << 20), ("1.5GiB", 3 << 29), ("2 kb", 2048)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_help_names_every_flag() -> None:
    assert "--data-root" in usage()
    assert "-H, --host" in usage()


def test_proxies_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps({"proxies": {"http-proxy": "http://a:1", "https-proxy": "b", "no-proxy": "c,d"}}))
    found = combine({}, read_file(str(path), required=True), str(path))
    assert (found.http_proxy, found.https_proxy, found.no_proxy) == ("http://a:1", "b", "c,d")
    path.write_text('{"proxies": {"ftp-proxy": "x"}}')
    with pytest.raises(BadOption, match=r"proxies\.ftp-proxy"):
        read_file(str(path), required=True)


#: What dockerd 28 reads from its daemon.json.
KEYS = [
    "allow-direct-routing", "authorization-plugins", "bip", "bip6", "bridge", "bridge-accept-fwmark", "builder",
    "cdi-spec-dirs", "cgroup-parent", "containerd", "containerd-namespace", "containerd-plugins-namespace",
    "cri-containerd", "data-root", "debug", "default-address-pools", "default-cgroupns-mode", "default-gateway",
    "default-gateway-v6", "default-ipc-mode", "default-network-opts", "default-runtime", "default-shm-size",
    "default-ulimits", "dns", "dns-opts", "dns-search", "exec-opts", "exec-root", "experimental", "features",
    "firewall-backend", "fixed-cidr", "fixed-cidr-v6", "group", "host-gateway-ip", "host-gateway-ips", "hosts",
    "icc", "init", "init-path", "insecure-registries", "ip", "ip-forward",
    "ip-forward-no-drop", "ip-masq", "ip6tables", "iptables", "ipv6", "isolation", "labels", "live-restore",
    "log-driver", "log-format", "log-level", "log-opts", "max-concurrent-downloads", "max-concurrent-uploads",
    "max-download-attempts", "metrics-addr", "min-api-version", "mtu", "network-control-plane-mtu",
    "no-new-privileges", "node-generic-resources", "oom-score-adjust", "pidfile", "proxies.http-proxy",
    "proxies.https-proxy", "proxies.no-proxy", "raw-logs",
    "registry-mirrors", "rootless", "runtimes", "seccomp-profile", "selinux-enabled", "shutdown-timeout",
    "storage-driver", "storage-opts", "swarm-default-advertise-addr", "tls", "tlscacert", "tlscert", "tlskey",
    "tlsverify", "userland-proxy", "userland-proxy-path", "userns-remap",
]


def test_every_key_of_dockerd_is_honoured_or_refused_with_a_reason() -> None:
    honoured = {option.file_key for option in OPTIONS}
    refused = {row.key or row.flag: row for row in REFUSED}
    assert set(KEYS) <= honoured | set(refused)
    assert not honoured & set(refused)
    assert all(row.why for row in REFUSED)


def test_no_setting_is_read_and_forgotten() -> None:
    """Each field of the configuration is used by something else than the reading of it."""
    sources = Path(barque.__file__).parent.rglob("*.py")
    code = "".join(path.read_text() for path in sources if path.name not in ("config.py", "daemon_options.py"))
    assert [item.name for item in fields(Config) if f".{item.name}" not in code] == []


@pytest.mark.parametrize(("flags", "text"), [
    (["--log-driver", "nosuch"], "no log driver named 'nosuch' is registered"),
    (["--log-driver", "syslog", "--log-opt", "nosuch=1"],
     "failed to set log opts: unknown log opt 'nosuch' for syslog log driver"),
    (["--log-driver", "gelf"], ""),
    (["--log-driver", "local", "--log-opt", "max-size=1m", "--log-opt", "tag={{.Name}}"], ""),
])
def test_log_drivers(flags: list[str], text: str) -> None:
    if text:
        with pytest.raises(BadOption, match=text):
            combine(parse_flags(flags).values, {}, "x")
    else:
        assert combine(parse_flags(flags).values, {}, "x").log_driver == flags[1]
