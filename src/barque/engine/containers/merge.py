"""The image's defaults under what the client asked for, and this engine's under both. Pure."""

from __future__ import annotations

import msgspec

from barque.config import Config
from barque.engine.containers import defaults
from barque.engine.containers.options import ContainerConfig, Healthcheck, HostConfig, LogConfig, RestartPolicy, words
from barque.errors import InvalidArgument
from barque.oci import go_json
from barque.oci.image import ImageConfig, RunConfig


class NoCommand(InvalidArgument):
    text = "no command specified"


def merge_image(asked: ContainerConfig, image: ImageConfig) -> ContainerConfig:
    """``asked`` completed from the image; raises :class:`NoCommand` where neither names one."""
    base = image.config or RunConfig()
    entrypoint = words(asked.entrypoint) if asked.entrypoint is not None else None
    command = words(asked.cmd)
    if not entrypoint:
        if not command:
            # An entrypoint of the client's own, even an empty string, does away with the image's command line.
            command = list(base.cmd or ())
        if entrypoint is None:
            entrypoint = list(base.entrypoint or ())
    if entrypoint == [""]:
        entrypoint = []
    if not entrypoint and not command:
        raise NoCommand()
    return msgspec.structs.replace(
        asked, entrypoint=entrypoint or None, cmd=command or None, user=asked.user or base.user,
        working_dir=asked.working_dir or base.working_dir, stop_signal=asked.stop_signal or base.stop_signal,
        env=_env(base.env or (), asked.env or []) or None, labels=go_json.merged(base.labels, asked.labels),
        exposed_ports=go_json.merged(base.exposed_ports, asked.exposed_ports) or None,
        volumes=go_json.merged(base.volumes, asked.volumes) or None, healthcheck=_health(asked.healthcheck, base),
        shell=asked.shell or (list(base.shell) if base.shell else None),
        stop_timeout=asked.stop_timeout if asked.stop_timeout is not None else base.stop_timeout,
        on_build=asked.on_build or (list(base.on_build) if base.on_build else None))


def _env(image: tuple[str, ...], asked: list[str]) -> list[str]:
    """The client's first, then what only the image has: dockerd's order."""
    names = {item.partition("=")[0] for item in asked}
    return [*asked, *(item for item in image if item.partition("=")[0] not in names)]


def _health(asked: Healthcheck | None, base: RunConfig) -> Healthcheck | None:
    inherited = base.healthcheck
    if inherited is None:
        return asked
    given = asked or Healthcheck()
    test = given.test if given.test else list(inherited.test or ())
    return Healthcheck(
        test=test, interval=given.interval or inherited.interval, timeout=given.timeout or inherited.timeout,
        start_period=given.start_period or inherited.start_period,
        start_interval=given.start_interval or inherited.start_interval, retries=given.retries or inherited.retries)


def complete_host(host: HostConfig, config: Config, *, cgroup_v2: bool, thermal_paths: tuple[str, ...]) -> HostConfig:
    """``host`` with this engine's defaults where the client left things open, as inspect shows them."""
    mode = host.network_mode if host.network_mode not in ("", "default") else "bridge"
    swap = 2 * host.memory if host.memory > 0 and host.memory_swap == 0 else host.memory_swap
    policy = host.restart_policy if host.restart_policy.name else RestartPolicy(name="no")
    masked, readonly = host.masked_paths, host.readonly_paths
    if not host.privileged:
        masked = [*defaults.MASKED, *thermal_paths] if masked is None else masked
        readonly = list(defaults.READONLY) if readonly is None else readonly
    cgroupns = host.cgroupns_mode or config.default_cgroupns_mode or ("private" if cgroup_v2 else "host")
    if host.privileged and not host.cgroupns_mode and not cgroup_v2:
        cgroupns = "host"
    return msgspec.structs.replace(
        host, network_mode=mode, memory_swap=swap, restart_policy=policy, masked_paths=masked, readonly_paths=readonly,
        cgroupns_mode=cgroupns, ipc_mode=host.ipc_mode or config.default_ipc_mode,
        log_config=_log(host.log_config, config),
        shm_size=host.shm_size or config.default_shm_size, runtime=host.runtime or config.default_runtime,
        init=config.init or None if host.init is None else host.init,
        cgroup_parent=host.cgroup_parent or config.cgroup_parent)


def _log(asked: LogConfig, config: Config) -> LogConfig:
    kind = asked.type or config.log_driver
    options = asked.config or {}
    defaults = {key: value for key, value in config.log_opts.items()
                if kind == config.log_driver or key.startswith("cache-")}
    return LogConfig(type=kind, config=go_json.merged(defaults, options))
