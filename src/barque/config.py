"""The settings of one daemon: one frozen value, made once from flags and the configuration file, passed down from
there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

VERSION = "0.1.0"
DEFAULT_DATA_ROOT = "/var/lib/barque"
DEFAULT_EXEC_ROOT = "/run/barque"
DEFAULT_CONFIG_FILE = "/etc/barque/daemon.json"
DEFAULT_RUNTIME = "barque"
#: Names of the built-in runtime: its own, and those that dockerd always has, unless ``runtimes`` gives them to another.
BUILTIN_RUNTIMES = (DEFAULT_RUNTIME, "runc", "io.containerd.runc.v2")
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Pool:
    """``base`` is cut into subnets of prefix length ``size``."""

    base: str
    size: int


@dataclass(frozen=True)
class ForeignRuntime:
    """An OCI runtime of somebody else: a command that speaks runc's command line."""

    path: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tls:
    """``verify`` asks clients for a certificate that ``ca`` signed."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    enabled: bool = False
    verify: bool = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Names follow dockerd's flags. Sizes are bytes, times seconds."""

    data_root: str = DEFAULT_DATA_ROOT
    exec_root: str = DEFAULT_EXEC_ROOT
    hosts: tuple[str, ...] = ()
    pidfile: str = ""
    group: str = "docker"
    log_level: str = "info"
    log_format: str = "text"
    log_file: str = ""
    debug: bool = False
    tls: Tls = Tls()
    allow_insecure_tcp: bool = False
    labels: tuple[str, ...] = ()
    experimental: bool = False
    metrics_addr: str = ""

    bip: str = ""
    mtu: int = 0
    icc: bool = True
    publish_obey_input: bool = False
    fixed_cidr: str = ""
    default_address_pools: tuple[Pool, ...] = ()
    default_bind_ip: str = "0.0.0.0"
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    host_gateway_ip: str = ""

    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    image_disk_budget: int = 0
    signature_policy: str = ""
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5

    cgroup_parent: str = ""
    cgroup_driver: Literal["cgroupfs", "systemd"] = "cgroupfs"
    runtimes: dict[str, ForeignRuntime] = field(default_factory=dict)
    default_runtime: str = DEFAULT_RUNTIME
    init: bool = False
    init_path: str = ""
    default_ulimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    default_shm_size: int = 64 * MEBIBYTE
    default_ipc_mode: str = "private"
    default_cgroupns_mode: str = ""
    seccomp_profile: str = ""
    no_new_privileges: bool = False
    selinux_enabled: bool = False
    log_driver: str = "json-file"
    log_opts: dict[str, str] = field(default_factory=dict)

    shutdown_timeout: int = 15
    live_restore: bool = False
