"""A container of the list endpoint as a row."""

from __future__ import annotations

from barque.cli.format.table import Row, label_getter
from barque.cli.format.units import ago, ellipsis, go_time, human_size, short_id
from barque.gotemplate.quoting import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TYPE = "*formatter.ContainerContext"
TABLE = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
RAW = """container_id: {{.ID}}
image: {{.Image}}
command: {{.Command}}
created_at: {{.CreatedAt}}
state: {{- pad .State 1 0}}
status: {{- pad .Status 1 0}}
names: {{.Names}}
labels: {{- pad .Labels 1 0}}
ports: {{- pad .Ports 1 0}}
"""
HEADERS = {
    "ID": "CONTAINER ID", "Names": "NAMES", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED", "Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Labels": "LABELS",
    "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
}


def container_row(item: dict[str, Any], *, trunc: bool) -> Row:
    command, created = item.get("Command", ""), item.get("Created", 0)
    mounts = item.get("Mounts") or []
    labels = item.get("Labels") or {}
    networks = (item.get("NetworkSettings") or {}).get("Networks") or {}
    names = [mount.get("Name") or mount.get("Source", "") for mount in mounts]
    return Row({
        "ID": short_id(item["Id"]) if trunc else item["Id"],
        "Names": _names(item.get("Names") or [], trunc),
        "Image": _image(item, trunc),
        "Command": quoted(ellipsis(command, 20) if trunc else command),
        "CreatedAt": go_time(created), "RunningFor": ago(created),
        "Ports": ports(item.get("Ports") or []),
        "State": item.get("State", ""), "Status": item.get("Status", ""),
        "Size": _size(item),
        "Labels": ",".join(sorted(f"{key}={value}" for key, value in labels.items())),
        "Label": label_getter(labels),
        "Mounts": ",".join(ellipsis(name, 15) if trunc else name for name in names),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in mounts)),
        "Networks": ",".join(networks),
        "Platform": _platform(item),
    }, TYPE)


def _platform(item: dict[str, Any]) -> str | None:
    platform = (item.get("ImageManifestDescriptor") or {}).get("platform")
    if not platform:
        return None
    return "/".join(platform[key] for key in ("os", "architecture", "variant") if platform.get(key))


def _names(names: list[str], trunc: bool) -> str:
    plain = [name.removeprefix("/") for name in names]
    if trunc:  # names with a slash inside are legacy links
        return next((name for name in plain if "/" not in name), "")
    return ",".join(plain)


def _image(item: dict[str, Any], trunc: bool) -> str:
    image: str = item.get("Image") or ""
    if not image:
        return "<no image>"
    if not trunc:
        return image
    if short_id(item.get("ImageID", "")) == short_id(image):
        return short_id(image)
    if "@" in image:
        from barque.oci.reference import InvalidReference, parse

        try:
            reference = parse(image)
        except InvalidReference:
            return image
        return reference.familiar_name + (f":{reference.tag}" if reference.tag else "")
    return image


def _size(item: dict[str, Any]) -> str:
    text = human_size(item.get("SizeRw") or 0, 3)
    total = item.get("SizeRootFs") or 0
    return f"{text} (virtual {human_size(total, 3)})" if total > 0 else text


def _address(ip: str, rest: str) -> str:
    return f"[{ip}]:{rest}" if ":" in ip else f"{ip}:{rest}"


def _group(key: tuple[str, str], first: int, last: int) -> str:
    ip, protocol = key
    text = str(first) if first == last else f"{first}-{last}"
    return (f"{_address(ip, text)}->{text}" if ip else text) + f"/{protocol}"


def ports(items: list[dict[str, Any]]) -> str:
    """``0.0.0.0:8080->80/tcp, 443/tcp``; ranges where neighbours are mapped to themselves."""
    done: list[str] = []
    moved: list[str] = []
    open_groups: dict[tuple[str, str], tuple[int, int]] = {}
    order = sorted(items, key=lambda port: (port["PrivatePort"], port.get("IP", ""), port.get("PublicPort", 0),
                                            port["Type"]))
    for port in order:
        private, public, ip, protocol = port["PrivatePort"], port.get("PublicPort", 0), port.get("IP", ""), port["Type"]
        if ip and public != private:
            moved.append(f"{_address(ip, str(public))}->{private}/{protocol}")
            continue
        key = (ip, protocol)
        first, last = open_groups.get(key, (private, private - 1))
        if private == last + 1:
            open_groups[key] = (first, private)
        else:
            done.append(_group(key, first, last))
            open_groups[key] = (private, private)
    done += [_group(key, first, last) for key, (first, last) in open_groups.items()]
    return ", ".join(done + moved)
