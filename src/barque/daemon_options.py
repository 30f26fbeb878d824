"""dockerd's flags and the keys of its ``daemon.json``: read both, tell contradictions, give a :class:`Config`.

Each option is one row of :data:`OPTIONS`; what dockerd knows and this engine cannot honour is one row of
:data:`REFUSED`, with the values that change nothing and are therefore fine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from barque.config import BUILTIN_RUNTIMES, DEFAULT_RUNTIME, Config, ForeignRuntime, Pool, Tls
from barque.errors import InvalidArgument
from barque.log import LEVELS


class BadOption(Exception):
    """A flag or the configuration file is wrong; the message is for the person who started the daemon."""


@dataclass(frozen=True)
class Option:
    """``kind`` is str, int, bool, list, map, size, pools, runtimes or ulimits; ``key`` names it in the file."""

    flag: str
    kind: str
    attribute: str
    key: str = ""
    short: str = ""
    help: str = ""

    @property
    def file_key(self) -> str:
        return self.key or self.flag


OPTIONS = (
    Option("data-root", "str", "data_root", help="Root directory of persistent state"),
    Option("exec-root", "str", "exec_root", help="Root directory for execution state files"),
    Option("host", "list", "hosts", key="hosts", short="H", help="Daemon socket(s) to connect to"),
    Option("pidfile", "str", "pidfile", short="p", help="Path to use for daemon PID file"),
    Option("group", "str", "group", short="G", help="Group for the unix socket"),
    Option("log-level", "str", "log_level", short="l", help="debug, info, warn, error or fatal"),
    Option("log-format", "str", "log_format", help="text or json"),
    Option("log-file", "str", "log_file", help="Log to this file, of which 10 MB and 10 MB before are kept"),
    Option("debug", "bool", "debug", short="D", help="Enable debug mode"),
    Option("label", "list", "labels", key="labels", help="Set key=value labels to the daemon"),
    Option("experimental", "bool", "experimental", help="Enable experimental features"),
    Option("tls", "bool", "tls.enabled", help="Use TLS; implied by --tlsverify"),
    Option("tlscacert", "str", "tls.ca", help="Trust certs signed only by this CA"),
    Option("tlscert", "str", "tls.cert", help="Path to TLS certificate file"),
    Option("tlskey", "str", "tls.key", help="Path to TLS key file"),
    Option("tlsverify", "bool", "tls.verify", help="Use TLS and verify the remote"),
    Option("allow-insecure-tcp", "bool", "allow_insecure_tcp",
           help="Serve TCP without client certificates; on an address that others reach this gives them root"),
    Option("bip", "str", "bip", help="Specify network bridge IP"),
    Option("metrics-addr", "str", "metrics_addr", help="TCP address that serves Prometheus metrics"),
    Option("mtu", "int", "mtu", help="Set the containers network MTU"),
    Option("icc", "bool", "icc", help="Let containers of the default network reach each other"),
    Option("publish-obey-input", "bool", "publish_obey_input",
           help="Relay published ports, so that this host's INPUT firewall rules decide about them"),
    Option("fixed-cidr", "str", "fixed_cidr", help="IPv4 subnet for fixed IPs"),
    Option("default-address-pool", "pools", "default_address_pools", key="default-address-pools",
           help="base=CIDR,size=BITS: default address pools"),
    Option("ip", "str", "default_bind_ip", help="Default IP when binding container ports"),
    Option("dns", "list", "dns", help="DNS server to use"),
    Option("dns-opt", "list", "dns_opts", key="dns-opts", help="DNS options to use"),
    Option("dns-search", "list", "dns_search", help="DNS search domains to use"),
    Option("host-gateway-ip", "str", "host_gateway_ip", help="What host-gateway in --add-host resolves to"),
    Option("insecure-registry", "list", "insecure_registries", key="insecure-registries",
           help="Enable insecure registry communication"),
    Option("registry-mirror", "list", "registry_mirrors", key="registry-mirrors", help="Preferred registry mirror"),
    Option("http-proxy", "str", "http_proxy", key="proxies.http-proxy", help="HTTP proxy for what the engine fetches"),
    Option("https-proxy", "str", "https_proxy", key="proxies.https-proxy", help="Proxy for HTTPS"),
    Option("no-proxy", "str", "no_proxy", key="proxies.no-proxy", help="Hosts that are asked directly, with commas"),
    Option("image-disk-budget", "size", "image_disk_budget",
           help="Remove images that are not used, the least recently used first, while all take more (default: never)"),
    Option("signature-policy", "str", "signature_policy",
           help="File that says which signatures images must have to be pulled"),
    Option("max-concurrent-downloads", "int", "max_concurrent_downloads", help="Set the max concurrent downloads"),
    Option("max-concurrent-uploads", "int", "max_concurrent_uploads", help="Set the max concurrent uploads"),
    Option("max-download-attempts", "int", "max_download_attempts", help="Set the max download attempts for each pull"),
    Option("cgroup-parent", "str", "cgroup_parent", help="Set parent cgroup for all containers"),
    Option("exec-opt", "list", "exec_opts", key="exec-opts", help="Runtime execution options"),
    Option("add-runtime", "runtimes", "runtimes", key="runtimes", help="name=path: register an OCI runtime"),
    Option("default-runtime", "str", "default_runtime", help="Default OCI runtime for containers"),
    Option("init", "bool", "init", help="Run an init in the container to forward signals and reap processes"),
    Option("init-path", "str", "init_path", help="Path to the docker-init binary"),
    Option("default-ulimit", "ulimits", "default_ulimits", key="default-ulimits", help="name=soft[:hard]"),
    Option("default-shm-size", "size", "default_shm_size", help="Default shm size for containers"),
    Option("default-ipc-mode", "str", "default_ipc_mode", help="shareable or private"),
    Option("default-cgroupns-mode", "str", "default_cgroupns_mode", help="host or private"),
    Option("seccomp-profile", "str", "seccomp_profile", help="Path to seccomp profile; unconfined turns it off"),
    Option("no-new-privileges", "bool", "no_new_privileges", help="Set no-new-privileges by default"),
    Option("selinux-enabled", "bool", "selinux_enabled", help="Give containers SELinux labels of their own"),
    Option("log-driver", "str", "log_driver", help="Default driver for container logs"),
    Option("log-opt", "map", "log_opts", key="log-opts", help="Default log driver options for containers"),
    Option("shutdown-timeout", "int", "shutdown_timeout", help="Seconds that containers get at shutdown"),
    Option("live-restore", "bool", "live_restore", help="Leave containers running when the daemon stops"),
)


@dataclass(frozen=True)
class Refused:
    """``fine`` are the values (as the file or the flag spells them) that ask for what happens anyway."""

    flag: str
    why: str
    is_bool: bool = False
    fine: tuple[Any, ...] = ("",)
    key: str = ""


REFUSED = (
    Refused("userland-proxy", "published ports need no proxy process here", True, (False, True)),
    Refused("userland-proxy-path", "there is no proxy process"),
    Refused("iptables", "the rules are in a table of this engine's own in nftables", True, (True,)),
    Refused("ip6tables", "the rules are in a table of this engine's own in nftables", True, (False, True)),
    Refused("ip-forward", "containers cannot be reached without forwarding", True, (True,)),
    Refused("ip-masq", "containers cannot reach out without masquerading", True, (True,)),
    Refused("ipv6", "the default bridge has IPv4 only", True, (False,)),
    Refused("fixed-cidr-v6", "the default bridge has IPv4 only"),
    Refused("default-gateway-v6", "the default bridge has IPv4 only"),
    Refused("default-gateway", "containers reach out through the bridge's own address"),
    Refused("bridge", "the bridge is this engine's own"),
    Refused("storage-driver", "there is one storage driver", fine=("", "overlay2", "overlayfs", "overlay")),
    Refused("storage-opt", "the storage driver takes no options", fine=((), []), key="storage-opts"),
    Refused("userns-remap", "user namespaces are not supported"),
    Refused("authorization-plugin", "plugins are not supported", fine=((), []), key="authorization-plugins"),
    Refused("containerd", "this engine has its own store and runtime"),
    Refused("containerd-namespace", "this engine has its own store and runtime"),
    Refused("containerd-plugins-namespace", "this engine has its own store and runtime"),
    Refused("cri-containerd", "this engine has its own store and runtime", True, (False,)),
    Refused("swarm-default-advertise-addr", "swarm is not supported"),
    Refused("network-control-plane-mtu", "swarm is not supported", fine=("", 1500, "1500")),
    Refused("node-generic-resource", "swarm is not supported", fine=((), []), key="node-generic-resources"),
    Refused("api-cors-header", "the API is not for web pages"),
    Refused("rootless", "this daemon needs root", True, (False,)),
    Refused("cpu-rt-period", "set the parent cgroup's limits by hand", fine=("", 0, "0")),
    Refused("cpu-rt-runtime", "set the parent cgroup's limits by hand", fine=("", 0, "0")),
    Refused("oom-score-adjust", "set it in the service's unit", fine=("", 0, "0")),
    Refused("raw-logs", "logs have no colours to turn off", True, (False, True)),
    Refused("allow-nondistributable-artifacts", "such layers are never pushed", fine=((), [])),
    Refused("cdi-spec-dir", "CDI devices are not supported", fine=((), []), key="cdi-spec-dirs"),
    Refused("features", "clients build by BuildKit's protocol and by the classic one, and there is one image store",
            fine=({}, {"buildkit": True}, {"containerd-snapshotter": False},
                  {"buildkit": True, "containerd-snapshotter": False})),
    Refused("builder", "the builder takes no settings", fine=({},)),
    Refused("firewall-backend", "there is one firewall backend", fine=("", "nftables")),
    Refused("allow-direct-routing", "published ports are reached by the host's addresses", True, (False,)),
    Refused("bridge-accept-fwmark", "the firewall knows no marks"),
    Refused("bip6", "the default bridge has IPv4 only"),
    Refused("default-network-opts", "networks get their options one by one", fine=({},)),
    Refused("host-gateway-ips", "name one IPv4 address as host-gateway-ip", fine=((), [])),
    Refused("ip-forward-no-drop", "what this host did not forward before stays dropped", True, (False,)),
    Refused("isolation", "isolation technologies are for Windows", fine=("", "default")),
    Refused("min-api-version", "clients of all versions from 1.24 on are served", fine=("", "1.24")),
    Refused("nri-opts", "NRI plugins are not supported", fine=({},)),
)

_BY_FLAG = {option.flag: option for option in OPTIONS}
_BY_SHORT = {option.short: option for option in OPTIONS if option.short}
_BY_KEY = {option.file_key: option for option in OPTIONS}
_REFUSED = {row.flag: row for row in REFUSED} | {row.key: row for row in REFUSED if row.key}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?\Z", re.IGNORECASE | re.ASCII)
_RUNTIME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*\Z", re.ASCII)


@dataclass(frozen=True)
class CommandLine:
    """What the flags say: values by attribute, and what concerns this run alone."""

    values: Mapping[str, Any]
    config_file: str | None = None
    validate: bool = False
    version: bool = False
    help: bool = False


def parse_size(text: str) -> int:
    """Bytes of ``64m``, ``1.5GiB``, ``1024``; raises :class:`BadOption`. Units are powers of 1024, as docker's are."""
    match = _SIZE.match(str(text).strip())
    if not match:
        raise BadOption(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def parse_flags(argv: list[str]) -> CommandLine:
    """Read dockerd's command line; raises :class:`BadOption` with pflag's words."""
    values: dict[str, Any] = {}
    special: dict[str, Any] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            raise BadOption(f'unexpected argument: "{word}": the daemon takes only flags')
        name, equals, value = word.partition("=")
        if not word.startswith("--"):
            name, equals, value = _short(word)
        option = _BY_FLAG.get(name.lstrip("-")) or _BY_SHORT.get(name.lstrip("-"))
        kind = option.kind if option else _special_kind(name)
        if kind == "bool":
            text = value if equals else "true"
        elif equals:
            text = value
        elif rest:
            text = rest.pop(0)
        else:
            raise BadOption(f"flag needs an argument: {name}")
        if option is None:
            _take_special(name, kind, text, special)
        else:
            _take(option, name, text, values)
    return CommandLine(values, **special)


def _short(word: str) -> tuple[str, str, str]:
    """``-Hunix:///x``, ``-H=unix:///x``, ``-D``: pflag's short forms."""
    name, tail = word[:2], word[2:]
    if not tail:
        return name, "", ""
    return name, "=", tail.removeprefix("=")


_SPECIAL = {"--config-file": "str", "--validate": "bool", "--version": "bool", "-v": "bool", "--help": "bool",
            "-h": "bool"}


def _special_kind(name: str) -> str:
    if name in _SPECIAL:
        return _SPECIAL[name]
    refused = _REFUSED.get(name.removeprefix("--")) if name.startswith("--") else None
    if refused is None:
        kind = "flag" if name.startswith("--") else "shorthand flag"
        raise BadOption(f"unknown {kind}: {name}")
    return "bool" if refused.is_bool else "str"


def _take_special(name: str, kind: str, text: str, special: dict[str, Any]) -> None:
    value = _boolean(name, text) if kind == "bool" else text
    target = {"-v": "version", "-h": "help"}.get(name, name.lstrip("-").replace("-", "_"))
    if name in _SPECIAL:
        special[target] = value
    else:
        _refuse(_REFUSED[name.removeprefix("--")], value, name)


def _refuse(row: Refused, value: Any, spelled: str) -> None:
    if value not in row.fine:
        text = value if isinstance(value, str) else json.dumps(value)
        raise BadOption(f"{spelled}={text} is not supported: {row.why}")


def _boolean(name: str, text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise BadOption(f'invalid argument "{text}" for "{name}" flag: strconv.ParseBool: parsing "{text}": invalid syntax')


def _take(option: Option, name: str, text: str, values: dict[str, Any]) -> None:
    """Add one occurrence of a flag to ``values``; kinds that can be repeated collect."""
    attribute = option.attribute
    try:
        if option.kind == "list":
            values[attribute] = (*values.get(attribute, ()), text)
        elif option.kind == "bool":
            values[attribute] = _boolean(name, text)
        elif option.kind == "int":
            values[attribute] = _integer(text)
        elif option.kind == "size":
            values[attribute] = parse_size(text)
        elif option.kind == "pools":
            values[attribute] = (*values.get(attribute, ()), _pool_flag(text))
        elif option.kind in ("map", "runtimes", "ulimits"):
            key, equals, value = text.partition("=")
            if not equals:
                raise BadOption(f"want name=value, not '{text}'")
            values[attribute] = {**values.get(attribute, {}), key: _entry(option.kind, value)}
        else:
            values[attribute] = text
    except BadOption as error:
        if option.kind == "bool":
            raise
        raise BadOption(f'invalid argument "{text}" for "{name}" flag: {error}') from None


def _integer(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]+", text, re.ASCII):
        raise BadOption(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def _entry(kind: str, value: str) -> Any:
    if kind == "runtimes":
        return ForeignRuntime(value)
    if kind == "ulimits":
        soft, _, hard = value.partition(":")
        return (_integer(soft), _integer(hard or soft))
    return value


def _pool_flag(text: str) -> Pool:
    parts = dict(item.partition("=")[::2] for item in text.split(","))
    if set(parts) != {"base", "size"}:
        raise BadOption("want base=CIDR,size=BITS")
    return Pool(parts["base"], _integer(parts["size"]))


def read_file(path: str, *, required: bool) -> dict[str, Any]:
    """The configuration file by attribute; raises :class:`BadOption` for unknown keys and wrong types."""
    try:
        with open(path, "rb") as file:
            tree = json.loads(file.read() or b"{}")
    except FileNotFoundError:
        if required:
            raise BadOption(f"unable to configure the daemon with file {path}: open {path}: no such file or "
                            "directory") from None
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadOption(f"unable to configure the daemon with file {path}: {error}") from None
    if not isinstance(tree, dict):
        raise BadOption(f"unable to configure the daemon with file {path}: want an object")
    if isinstance(tree.get("proxies"), dict):
        tree |= {f"proxies.{key}": value for key, value in tree.pop("proxies").items()}
    unknown = sorted(key for key in tree if key not in _BY_KEY and key not in _REFUSED)
    if unknown:
        raise BadOption(f"unable to configure the daemon with file {path}: the following directives don't match any "
                        f"configuration option: {', '.join(unknown)}")
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key in _BY_KEY:
            try:
                values[_BY_KEY[key].attribute] = _from_json(_BY_KEY[key].kind, value)
            except (BadOption, TypeError, KeyError, AttributeError, ValueError) as error:
                raise BadOption(f"unable to configure the daemon with file {path}: {key}: {error}") from None
        else:
            _refuse(_REFUSED[key], value, key)
    return values


def _list_of_strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadOption("want a list of strings")
    return tuple(value)


def _map_of_strings(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise BadOption("want an object of strings")
    return value


def _scalar(kind: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if type(value) is not kind:
            raise BadOption(f"want {kind.__name__}, not {json.dumps(value)}")
        return value
    return convert


_JSON: dict[str, Callable[[Any], Any]] = {
    "str": _scalar(str), "int": _scalar(int), "bool": _scalar(bool), "list": _list_of_strings, "map": _map_of_strings,
    "size": parse_size, "pools": lambda value: tuple(Pool(item["base"], item["size"]) for item in value),
    "runtimes": lambda value: {name: ForeignRuntime(item["path"], tuple(item.get("runtimeArgs") or ()))
                               for name, item in value.items()},
    "ulimits": lambda value: {name: (item["Soft"], item["Hard"]) for name, item in value.items()},
}


def _from_json(kind: str, value: Any) -> Any:
    return _JSON[kind](value)


def combine(flags: Mapping[str, Any], file: Mapping[str, Any], path: str) -> Config:
    """Flags and file as one :class:`Config`; the same directive in both is an error, as dockerd has it."""
    both = [option for option in OPTIONS if option.attribute in flags and option.attribute in file]
    if both:
        told = ", ".join(f"{option.file_key}: (from flag: {_show(flags[option.attribute])}, from file: "
                         f"{_show(file[option.attribute])})" for option in both)
        raise BadOption(f"unable to configure the daemon with file {path}: the following directives are specified both "
                        f"as a flag and in the configuration file: {told}")
    values = {**file, **flags}
    tls = {key.partition(".")[2]: values.pop(key) for key in list(values) if key.startswith("tls.")}
    driver = _cgroup_driver(values.pop("exec_opts", ()))
    config = Config(**{key: value for key, value in values.items() if key in _FIELDS}, tls=Tls(**tls))
    config = replace(config, cgroup_driver=driver, log_level="debug" if config.debug else config.log_level)
    if config.tls.verify:
        config = replace(config, tls=replace(config.tls, enabled=True))
    return check(config)


_FIELDS = {item.name for item in fields(Config)}


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "[" + " ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)


def _cgroup_driver(options: tuple[str, ...]) -> Literal["cgroupfs", "systemd"]:
    driver: Literal["cgroupfs", "systemd"] = "cgroupfs"
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key.strip() != "native.cgroupdriver":
            raise BadOption(f"invalid --exec-opt value: {option}")
        if value not in ("cgroupfs", "systemd"):
            raise BadOption(f"native.cgroupdriver option {value} is not supported")
        driver = "systemd" if value == "systemd" else "cgroupfs"
    return driver


def check(config: Config) -> Config:
    """Raises :class:`BadOption` for values that contradict each other or are out of range."""
    if config.log_level not in LEVELS:
        raise BadOption(f"invalid logging level: {config.log_level}")
    if config.log_format not in ("text", "json"):
        raise BadOption(f"invalid log format: {config.log_format}")
    for name in ("max_concurrent_downloads", "max_concurrent_uploads", "max_download_attempts"):
        if getattr(config, name) <= 0:
            raise BadOption(f"invalid {name.replace('_', ' ')}: {getattr(config, name)}")
    if config.mtu < 0:
        raise BadOption(f"invalid default MTU: {config.mtu}")
    for label in config.labels:
        if "=" not in label:
            raise BadOption(f"bad attribute format: {label}")
    for name in config.runtimes:
        if not _RUNTIME_NAME.match(name) or name == DEFAULT_RUNTIME:
            raise BadOption(f"runtime name '{name}' is reserved or malformed")
    if config.default_runtime not in (*BUILTIN_RUNTIMES, *config.runtimes):
        raise BadOption(f"specified default runtime '{config.default_runtime}' does not exist")
    _check_log(config)
    if config.default_ipc_mode not in ("private", "shareable"):
        raise BadOption(f"IPC mode \"{config.default_ipc_mode}\" is not supported as default value")
    if config.default_cgroupns_mode not in ("", "private", "host"):
        raise BadOption(f'Default cgroup namespace mode ("{config.default_cgroupns_mode}") is invalid; use "host" or '
                        '"private"')
    if config.seccomp_profile not in ("", "builtin", "unconfined") and not os.path.isabs(config.seccomp_profile):
        raise BadOption("seccomp profile needs an absolute path, builtin or unconfined")
    return config


def _check_log(config: Config) -> None:
    """The engine, which knows the drivers, takes its time to load: only who asks for more than the default waits."""
    if config.log_driver in ("json-file", "none") and not config.log_opts:
        return
    from barque.engine.logging import drivers

    if config.log_driver not in ("none", *drivers.DRIVERS):
        raise BadOption(f"no log driver named '{config.log_driver}' is registered")
    if config.log_opts:
        try:
            drivers.check(config.log_driver, config.log_opts)
        except InvalidArgument as error:
            raise BadOption(f"failed to set log opts: {error.message}") from None


def usage() -> str:
    """The text of ``--help``."""
    lines = ["Usage:  barqued [OPTIONS]", "", "A self-sufficient runtime for containers.", "", "Options:"]
    for option in sorted(OPTIONS, key=lambda option: option.flag):
        short = f"-{option.short}, " if option.short else "    "
        kind = "" if option.kind == "bool" else f" {option.kind}"
        lines.append(f"  {short}{f'--{option.flag}{kind}':<34} {option.help}")
    for flag, text in (("config-file str", "Daemon configuration file"),
                       ("validate", "Check the configuration and exit"),
                       ("version", "Print version information and quit")):
        lines.append(f"      {f'--{flag}':<34} {text}")
    return "\n".join(lines)
