"""``--publish`` and ``--expose``, as the API's port maps."""

from __future__ import annotations

from barque.cli.spec.checks import is_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    Bindings = dict[str, list[dict[str, str]]]

_PROTOCOLS = ("tcp", "udp", "sctp")
_MAX_PORT = 65535


def _range(text: str, what: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    last = last if dash else first
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last) <= _MAX_PORT):
        raise ValueError(f"invalid {what}: {text}")
    return int(first), int(last)


def _long_form(text: str) -> str:
    fields = {"protocol": "tcp", "published": "", "target": ""}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{item}')")
        fields[key] = value
    return f"{fields['published']}:{fields['target']}/{fields['protocol']}"


def published(texts: list[str]) -> tuple[dict[str, dict[str, str]], Bindings]:
    """(ExposedPorts, PortBindings) of ``[ip:][host-port]:port[/proto]`` values; raises ValueError."""
    exposed: dict[str, dict[str, str]] = {}
    bindings: Bindings = {}
    for text in texts:
        for port, binding in _bindings(_long_form(text) if "=" in text else text):
            exposed[port] = {}
            bindings.setdefault(port, []).append(binding)
    return exposed, bindings


def _bindings(text: str) -> list[tuple[str, dict[str, str]]]:
    spec, slash, protocol = text.rpartition("/")
    if not slash:
        spec, protocol = text, "tcp"
    address, host, container = _split(spec)
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    if address and not is_ip(address):
        raise ValueError(f"invalid IP address: {address}")
    start, end = _range(container, "containerPort")
    host_start, host_end = _range(host, "hostPort") if host else (0, 0)
    if protocol.lower() not in _PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    spread = bool(host) and end - start != host_end - host_start
    if spread and start != end:
        raise ValueError(f"invalid ranges specified for container and host Ports: {container} and {host}")
    result = []
    for offset in range(end - start + 1):
        host_port = ""
        if host:
            host_port = f"{host_start}-{host_end}" if spread else str(host_start + offset)
        result.append((f"{start + offset}/{protocol.lower()}", {"HostIp": address, "HostPort": host_port}))
    return result


def _split(spec: str) -> tuple[str, str, str]:
    if spec.startswith("["):
        address, _, rest = spec[1:].partition("]")
        host, _, container = rest.removeprefix(":").rpartition(":")
        return address, host, container
    parts = spec.split(":")
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    return ":".join(parts[:-2]), parts[-2], parts[-1]


def exposed(texts: list[str]) -> dict[str, dict[str, str]]:
    """``port[-port][/proto]`` values as ExposedPorts."""
    result: dict[str, dict[str, str]] = {}
    for text in texts:
        if ":" in text:
            raise ValueError(f"invalid port format for --expose: {text}")
        port, slash, protocol = text.partition("/")
        if slash and protocol.lower() not in _PROTOCOLS:
            raise ValueError(f"invalid range format for --expose: {text}, error: invalid proto: {protocol}")
        try:
            start, end = _range(port, "port")
        except ValueError:
            reason = (f'strconv.ParseUint: parsing "{port}": invalid syntax' if not port.replace("-", "", 1).isdigit()
                      else "Invalid range specified for the Port: " + port)
            raise ValueError(f"invalid range format for --expose: {text}, error: {reason}") from None
        for number in range(start, end + 1):
            result[f"{number}/{protocol.lower() or 'tcp'}"] = {}
    return result
