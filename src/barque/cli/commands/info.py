"""``info``."""

from __future__ import annotations

from barque import __version__
from barque.cli.command import Command
from barque.cli.commands.formats import inspect_format_flag
from barque.cli.commands.version import client_document, templated
from barque.cli.errors import CommandError
from barque.cli.format.units import bytes_size
from barque.client.engine import ApiError, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values


def _info(app: App, values: Values) -> int:
    server: dict[str, Any] = {}
    failure = ""
    try:
        server = app.engine.get("/info")
    except (ApiError, Unreachable) as error:
        failure = str(error)
    client = {"Debug": app.options["debug"], **client_document(app), "Plugins": [], "Warnings": None}
    form = values["format"]
    if form:
        document = {**server, **({"ServerErrors": [failure]} if failure else {}), "ClientInfo": client}
        if form == "json":
            from barque import fastjson

            app.line(fastjson.dumps(document))
        else:
            app.line(templated(form, document, "Info"))
        if failure:
            raise CommandError(failure)
        return 0
    app.out(f"Client:\n Version:    {__version__}\n Context:    {client['Context']}\n"
            f" Debug Mode: {str(client['Debug']).lower()}\n\nServer:\n")
    if failure:
        raise CommandError(f"ERROR: {failure}\nerrors pretty printing info")
    app.out(_server(server) + "\n")
    for warning in server.get("Warnings") or ():
        app.err(warning)
    return 0


def _line(title: str, value: object) -> str:
    return f" {title}: {value}\n"


def _filled(title: str, value: object) -> str:
    return _line(title, value) if value not in (None, "") else ""


def _truth(value: object) -> str:
    return str(bool(value)).lower()


def _listing(title: str, items: list[str]) -> str:
    return f" {title}:\n" + "".join(f"  {item}\n" for item in items) if items else ""


def _server(info: dict[str, Any]) -> str:
    plugins = info.get("Plugins") or {}
    out = _line("Containers", info["Containers"])
    out += "".join(f"  {state}: {info['Containers' + state]}\n" for state in ("Running", "Paused", "Stopped"))
    out += _line("Images", info["Images"]) + _filled("Server Version", info.get("ServerVersion"))
    out += _filled("Storage Driver", info.get("Driver"))
    out += "".join(f"  {name}: {value}\n" for name, value in info.get("DriverStatus") or ())
    out += _filled("Logging Driver", info.get("LoggingDriver")) + _filled("Cgroup Driver", info.get("CgroupDriver"))
    out += _filled("Cgroup Version", info.get("CgroupVersion"))
    out += " Plugins:\n"
    for kind in ("Volume", "Network", "Authorization", "Log"):
        if plugins.get(kind) or kind != "Authorization":
            out += f"  {kind}: {' '.join(plugins.get(kind) or [])}\n"
    out += _listing("CDI spec directories", info.get("CDISpecDirs") or [])
    out += _line("Swarm", (info.get("Swarm") or {}).get("LocalNodeState", "inactive"))
    if info.get("Runtimes"):
        out += _line("Runtimes", " ".join(info["Runtimes"])) + _line("Default Runtime", info.get("DefaultRuntime", ""))
    out += _line("Init Binary", info.get("InitBinary", ""))
    for title, key in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")):
        out += _line(f"{title} version", (info.get(key) or {}).get("ID", ""))
    return out + _security(info.get("SecurityOptions") or []) + _host(info) + _registries(info)


def _security(options: list[str]) -> str:
    out = ""
    for option in options:
        fields = dict(field.partition("=")[::2] for field in option.split(","))
        out += f"  {fields.get('name', option)}\n"
        if "profile" in fields:
            out += f"   Profile: {fields['profile']}\n"
    return " Security Options:\n" + out if out else ""


def _host(info: dict[str, Any]) -> str:
    out = ""
    for title, key in (("Kernel Version", "KernelVersion"), ("Operating System", "OperatingSystem"), ("OSType",
                                                                                                      "OSType"),
                       ("Architecture", "Architecture")):
        out += _filled(title, info.get(key))
    out += _line("CPUs", info.get("NCPU", 0)) + _line("Total Memory", bytes_size(info.get("MemTotal", 0)))
    out += _filled("Name", info.get("Name")) + _filled("ID", info.get("ID"))
    out += _line("Docker Root Dir", info.get("DockerRootDir", "")) + _line("Debug Mode", _truth(info.get("Debug")))
    if info.get("Debug"):
        out += f"  File Descriptors: {info.get('NFd')}\n  Goroutines: {info.get('NGoroutines')}\n"
        out += f"  System Time: {info.get('SystemTime')}\n  EventsListeners: {info.get('NEventsListener')}\n"
    for title, key in (("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")):
        out += _filled(title, info.get(key))
    out += _listing("Labels", info.get("Labels") or [])
    return out + _line("Experimental", _truth(info.get("ExperimentalBuild")))


def _registries(info: dict[str, Any]) -> str:
    config = info.get("RegistryConfig") or {}
    indexes = config.get("IndexConfigs") or {}
    insecure = [entry["Name"] for entry in indexes.values() if not entry.get("Secure")]
    out = _listing("Insecure Registries", insecure + (config.get("InsecureRegistryCIDRs") or []))
    out += _listing("Registry Mirrors", config.get("Mirrors") or [])
    out += _line("Live Restore Enabled", _truth(info.get("LiveRestoreEnabled")))
    pools = info.get("DefaultAddressPools") or []
    return out + _listing("Default Address Pools", [f" Base: {pool['Base']}, Size: {pool['Size']}" for pool in pools])


INFO = Command("info", "[OPTIONS]", "Display system-wide information", _info, most=0,
               flags=lambda: [inspect_format_flag()], aliases="system info, info",
               examples="barque info --format '{{.Driver}}'")
