"""The flags that ``run`` and ``create`` share."""

from __future__ import annotations

from barque.cli.flags import (
    BOOL,
    BYTES,
    DURATION,
    INT,
    LIST,
    MAP,
    STRING,
    SWAP,
    UINT,
    UINT16,
    Flag,
    Kind,
)
from barque.cli.spec import checks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _objects(name: str, parse: Callable[[str], Any], shown: str = "") -> Kind:
    """A repeatable flag whose values are API objects."""
    return Kind(name, (), lambda current, text: [*current, parse(text)], shown)


def _mount(text: str) -> dict[str, Any]:
    from barque.cli.spec.mounts import mount

    return mount(text)


def _network(text: str) -> dict[str, Any]:
    from barque.cli.spec.network import network

    return network(text)


CPUS = Kind("decimal", 0, lambda _, text: checks.nano_cpus(text))


def content_trust(text: str) -> str:
    """There is no content trust to switch on."""
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        raise ValueError("content trust is not supported")
    return text


def resource_flags() -> list[Flag]:
    """What ``update`` knows as well."""
    return [
        Flag("blkio-weight", "", UINT16, "Relative block IO weight, 10 to 1000, or 0 to switch it off"),
        Flag("cpu-period", "", INT, "Period of the CPU bandwidth limit in microseconds"),
        Flag("cpu-quota", "", INT, "CPU time per period in microseconds"),
        Flag("cpu-rt-period", "", INT, "Period of the real-time CPU limit in microseconds"),
        Flag("cpu-rt-runtime", "", INT, "Real-time CPU time per period in microseconds"),
        Flag("cpu-shares", "c", INT, "CPU shares (relative weight)"),
        Flag("cpus", "", CPUS, "Number of CPUs"),
        Flag("cpuset-cpus", "", STRING, "CPUs that may be used (0-3, 0,1)"),
        Flag("cpuset-mems", "", STRING, "Memory nodes that may be used (0-3, 0,1)"),
        Flag("memory", "m", BYTES, "Memory limit"),
        Flag("memory-reservation", "", BYTES, "Soft memory limit"),
        Flag("memory-swap", "", SWAP, "Limit of memory plus swap: -1 for unlimited swap"),
        Flag("pids-limit", "", INT, "Limit of processes (-1 for unlimited)"),
    ]


def _limits() -> list[Flag]:
    bps = _objects("list", checks.throttle_bytes, "[]")
    iops = _objects("list", checks.throttle_iops, "[]")
    return [
        *resource_flags(),
        Flag("blkio-weight-device", "", _objects("list", checks.weight_device, "[]"), "Block IO weight of a device"),
        Flag("cpu-count", "", INT, "Number of CPUs (Windows only)"),
        Flag("cpu-percent", "", INT, "Share of CPU in percent (Windows only)"),
        Flag("device-read-bps", "", bps, "Limit reading from a device, in bytes per second"),
        Flag("device-read-iops", "", iops, "Limit reading from a device, in operations per second"),
        Flag("device-write-bps", "", bps, "Limit writing to a device, in bytes per second"),
        Flag("device-write-iops", "", iops, "Limit writing to a device, in operations per second"),
        Flag("io-maxbandwidth", "", BYTES, "IO bandwidth limit of the system drive (Windows only)"),
        Flag("io-maxiops", "", UINT, "IO operations limit of the system drive (Windows only)"),
        Flag("kernel-memory", "", BYTES, "Kernel memory limit"),
        Flag("memory-swappiness", "", INT, "How readily memory is swapped (0 to 100)", -1),
        Flag("oom-kill-disable", "", BOOL, "Do not kill processes when memory runs out"),
        Flag("oom-score-adj", "", INT, "Preference of the OOM killer (-1000 to 1000)"),
        Flag("shm-size", "", BYTES, "Size of /dev/shm"),
        Flag("ulimit", "", _objects("ulimit", checks.ulimit, "[]"), "Resource limits (name=soft[:hard])"),
    ]


def _process() -> list[Flag]:
    return [
        Flag("annotation", "", MAP, "Annotation for the OCI runtime"),
        Flag("attach", "a", LIST, "Attach to STDIN, STDOUT or STDERR", check=checks.attach),
        Flag("cap-add", "", LIST, "Add Linux capabilities"),
        Flag("cap-drop", "", LIST, "Drop Linux capabilities"),
        Flag("cgroup-parent", "", STRING, "Parent of the container's cgroup"),
        Flag("cgroupns", "", STRING, "Cgroup namespace (host|private); the daemon's default if not given"),
        Flag("cidfile", "", STRING, "Write the container's id to this file"),
        Flag("device", "", LIST, "Add a device of the host"),
        Flag("device-cgroup-rule", "", LIST, "Add a rule to the allowed devices", check=checks.device_cgroup_rule),
        Flag("disable-content-trust", "", BOOL, "Skip image verification", True, check=content_trust),
        Flag("entrypoint", "", STRING, "Program to run in place of the image's"),
        Flag("env", "e", LIST, "Set environment variables", check=checks.env),
        Flag("env-file", "", LIST, "Read environment variables from a file"),
        Flag("gpus", "", _objects("gpu-request", checks.gpu_request), "GPUs to add ('all' for every one)"),
        Flag("group-add", "", LIST, "Additional groups to join"),
        Flag("help", "", BOOL, "Print usage"),
        Flag("init", "", BOOL, "Run an init that forwards signals and reaps processes"),
        Flag("interactive", "i", BOOL, "Keep STDIN open even if not attached"),
        Flag("ipc", "", STRING, "IPC mode to use"),
        Flag("isolation", "", STRING, "Isolation technology"),
        Flag("label", "l", LIST, "Set metadata on the container", check=checks.label),
        Flag("label-file", "", LIST, "Read labels from a file, one a line"),
        Flag("log-driver", "", STRING, "Logging driver"),
        Flag("log-opt", "", LIST, "Options of the logging driver"),
        Flag("name", "", STRING, "Name of the container"),
        Flag("pid", "", STRING, "PID namespace to use"),
        Flag("platform", "", STRING, "Platform of the image, where it has several"),
        Flag("privileged", "", BOOL, "Give all privileges to the container"),
        Flag("pull", "", STRING, 'Pull the image first ("always", "missing", "never")', "missing"),
        Flag("quiet", "q", BOOL, "Do not show the pull"),
        Flag("read-only", "", BOOL, "Mount the root filesystem read only"),
        Flag("restart", "", STRING, "What to do when the container exits", "no"),
        Flag("rm", "", BOOL, "Remove the container and its anonymous volumes when it exits"),
        Flag("runtime", "", STRING, "Runtime to use"),
        Flag("security-opt", "", LIST, "Security options"),
        Flag("stop-signal", "", STRING, "Signal that stops the container"),
        Flag("stop-timeout", "", INT, "Seconds until a container that does not stop is killed"),
        Flag("storage-opt", "", LIST, "Options of the storage driver"),
        Flag("sysctl", "", MAP, "Sysctl options", check=checks.sysctl),
        Flag("tty", "t", BOOL, "Allocate a pseudo terminal"),
        Flag("use-api-socket", "", BOOL, "Mount the engine's socket and the registry logins"),
        Flag("user", "u", STRING, "User (format: <name|uid>[:<group|gid>])"),
        Flag("userns", "", STRING, "User namespace to use"),
        Flag("uts", "", STRING, "UTS namespace to use"),
        Flag("workdir", "w", STRING, "Working directory inside the container"),
    ]


def _health() -> list[Flag]:
    return [
        Flag("health-cmd", "", STRING, "Command that checks the health"),
        Flag("health-interval", "", DURATION, "Time between checks (ms|s|m|h)"),
        Flag("health-retries", "", INT, "Failures in a row until unhealthy"),
        Flag("health-start-interval", "", DURATION, "Time between checks while starting (ms|s|m|h)"),
        Flag("health-start-period", "", DURATION, "Time to start during which failures do not count (ms|s|m|h)"),
        Flag("health-timeout", "", DURATION, "Longest time of a check (ms|s|m|h)"),
        Flag("no-healthcheck", "", BOOL, "Switch the image's HEALTHCHECK off"),
    ]


def _network_flags() -> list[Flag]:
    return [
        Flag("add-host", "", LIST, "Add a host name (host:ip)", check=checks.extra_host),
        Flag("dns", "", LIST, "DNS servers", check=checks.ip_address),
        Flag("dns-option", "", LIST, "DNS options"),
        Flag("dns-search", "", LIST, "DNS search domains", check=checks.dns_search),
        Flag("domainname", "", STRING, "NIS domain name"),
        Flag("expose", "", LIST, "Expose a port or a range of ports"),
        Flag("hostname", "h", STRING, "Host name"),
        Flag("ip", "", STRING, "IPv4 address (172.30.100.104)"),
        Flag("ip6", "", STRING, "IPv6 address (2001:db8::33)"),
        Flag("link", "", LIST, "Link to another container", check=checks.link),
        Flag("link-local-ip", "", LIST, "Link-local addresses", check=checks.ip_address),
        Flag("mac-address", "", STRING, "MAC address (92:d0:c6:0a:29:33)"),
        Flag("network", "", _objects("network", _network), "Network to connect to"),
        Flag("network-alias", "", LIST, "Alias in the network"),
        Flag("publish", "p", LIST, "Publish a port of the container ([ip:]host-port:port[/proto])"),
        Flag("publish-all", "P", BOOL, "Publish all exposed ports at random ports"),
    ]


def _storage() -> list[Flag]:
    return [
        Flag("mount", "", _objects("mount", _mount), "Attach a filesystem mount"),
        Flag("tmpfs", "", LIST, "Mount a tmpfs directory"),
        Flag("volume", "v", LIST, "Mount a volume or a directory of the host"),
        Flag("volume-driver", "", STRING, "Driver of the volumes"),
        Flag("volumes-from", "", LIST, "Mount the volumes of another container"),
    ]


def create_flags() -> list[Flag]:
    return [*_process(), *_limits(), *_health(), *_network_flags(), *_storage(),
            # docker's older spellings
            *(Flag(name, "", kind.kind, kind.help, hidden=True) for name, kind in _aliases())]


def _aliases() -> list[tuple[str, Flag]]:
    network = Flag("network", "", _objects("network", _network), "Network to connect to")
    alias = Flag("network-alias", "", LIST, "Alias in the network")
    return [("net", network), ("net-alias", alias)]


def detach_flag() -> Flag:
    return Flag("detach-keys", "", STRING, "Key sequence that detaches (default ctrl-p,ctrl-q)")
