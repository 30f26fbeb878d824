"""``stats``."""

from __future__ import annotations

import select

from barque import fastjson
from barque.cli.command import Command
from barque.cli.commands.formats import format_flag
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, Flag
from barque.cli.format.table import Row, TemplateError, render
from barque.cli.format.units import bytes_size, human_size, short_id
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values
    from barque.client.http import Response

TYPE = "*container.statsContext"
_TABLE = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"
_HEADERS = {"Container": "CONTAINER", "Name": "NAME", "ID": "CONTAINER ID", "CPUPerc": "CPU %",
            "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O",
            "PIDs": "PIDS"}
_INTERVAL = 0.5
#: Cursor to the top; the rest of a line, of the screen is cleared. Drawing over what is there does not flicker.
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K\n", "\x1b[J"


def _cpu(sample: dict[str, Any]) -> float:
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    usage, earlier = now.get("cpu_usage") or {}, before.get("cpu_usage") or {}
    delta = usage.get("total_usage", 0) - earlier.get("total_usage", 0)
    system = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus") or len(usage.get("percpu_usage") or ())
    return delta / system * cpus * 100.0 if delta > 0 and system > 0 else 0.0


def _memory(stats: dict[str, Any]) -> int:
    """What is used without the cache that can be dropped: v1 and v2 call it differently."""
    usage: int = stats.get("usage", 0)
    details = stats.get("stats") or {}
    for key in ("total_inactive_file", "inactive_file"):
        if key in details and details[key] < usage:
            return usage - int(details[key])
        if key in details and key == "total_inactive_file":
            break
    return usage


def stats_row(container: str, sample: dict[str, Any] | None, *, trunc: bool) -> Row:
    """A sample as a row; None where there is none (yet)."""
    if sample is None or not sample.get("cpu_stats"):
        identifier = (sample or {}).get("id", "") or "--"
        return Row({"Container": container, "Name": (sample or {}).get("name", "--").removeprefix("/") or "--",
                    "ID": short_id(identifier) if trunc else identifier, "CPUPerc": "--", "MemUsage": "-- / --",
                    "MemPerc": "--", "NetIO": "--", "BlockIO": "--", "PIDs": "--"}, TYPE)
    memory = sample.get("memory_stats") or {}
    used, limit = _memory(memory), memory.get("limit", 0)
    networks = (sample.get("networks") or {}).values()
    received, sent = (sum(net.get(key, 0) for net in networks) for key in ("rx_bytes", "tx_bytes"))
    blocks = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    read, written = (sum(entry["value"] for entry in blocks if entry["op"][:1].lower() == letter) for letter in "rw")
    return Row({
        "Container": container, "Name": sample.get("name", "").removeprefix("/") or "--",
        "ID": short_id(sample["id"]) if trunc else sample["id"], "CPUPerc": f"{_cpu(sample):.2f}%",
        "MemUsage": f"{bytes_size(used)} / {bytes_size(limit)}",
        "MemPerc": f"{used / limit * 100.0 if limit else 0.0:.2f}%",
        "NetIO": f"{human_size(received, 3)} / {human_size(sent, 3)}",
        "BlockIO": f"{human_size(read, 3)} / {human_size(written, 3)}",
        "PIDs": str((sample.get("pids_stats") or {}).get("current", 0)),
    }, TYPE)


class _Source:
    """A stream of JSON lines that is read as it becomes readable. ``sample`` is the last document."""

    def __init__(self, name: str, response: Response) -> None:
        self.name = name
        self.response = response
        self.fd = response.connection.sock.fileno()
        self.sample: dict[str, Any] | None = None
        self._chunks = response.chunks()
        self._rest = b""

    def read(self) -> list[dict[str, Any]] | None:
        """The documents that arrived; None at the end."""
        chunk = next(self._chunks, b"")
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        documents = [fastjson.loads(line) for line in lines if line.strip()]
        if documents:
            self.sample = documents[-1]
        return documents if chunk else None


def _names(app: App, values: Values) -> list[str]:
    if values.arguments:
        return values.arguments
    items = app.engine.get("/containers/json", {"all": values["all"] or None})
    return [item["Id"] for item in items]


def _once(app: App, values: Values) -> int:
    rows, errors = [], []
    for name in _names(app, values):
        try:
            sample = app.engine.get(f"/containers/{name}/stats", {"stream": "0"})
        except ApiError as error:
            errors.append(str(error))
            continue
        rows.append(stats_row(name, sample, trunc=not values["no-trunc"]))
    if not values.arguments or rows:
        _show(app, values, rows, clear=False)
    if errors:
        raise CommandError("\n".join(errors))
    return 0


def _show(app: App, values: Values, rows: list[Row], *, clear: bool) -> None:
    form = app.default_format("statsFormat", values["format"])
    parts: list[str] = []
    try:
        render(rows, form, _TABLE, _HEADERS, parts.append, TYPE)
    except TemplateError as error:
        raise CommandError(str(error)) from None
    text = "".join(parts)
    app.out(_HOME + text.replace("\n", _CLEAR_LINE) + _CLEAR_BELOW if clear else text)
    app.flush()


def _stats(app: App, values: Values) -> int:
    if values["no-stream"]:
        return _once(app, values)
    sources: dict[int, _Source] = {}
    events = None
    poll = select.poll()
    if not values.arguments:
        query = {"filters": fastjson.dumps({"type": {"container": True}, "event": {"start": True, "die": True}})}
        events = _Source("", app.engine.stream("GET", "/events", query))
        poll.register(events.fd, select.POLLIN)
    for name in _names(app, values):
        _open(app, name, sources, poll)
    try:
        _follow(app, values, sources, poll, events)
    finally:
        for source in sources.values():
            source.response.close()
    return 0


def _open(app: App, name: str, sources: dict[int, _Source], poll: select.poll) -> None:
    source = _Source(name, app.engine.stream("GET", f"/containers/{name}/stats", {"stream": "1"}))
    sources[source.fd] = source
    poll.register(source.fd, select.POLLIN)


def _follow(app: App, values: Values, sources: dict[int, _Source], poll: select.poll, events: _Source | None) -> None:
    """Redraw at most twice a second, as samples and starting containers come in."""
    import time

    drawn = 0.0
    while sources or events is not None:
        for fd, _ in poll.poll(int(_INTERVAL * 1000)):
            if events is not None and fd == events.fd:
                arrived = events.read()
                if arrived is None:
                    return
                for event in arrived:
                    if event.get("Action") == "start":
                        _open(app, event["Actor"]["ID"], sources, poll)
            elif fd in sources and sources[fd].read() is None:
                poll.unregister(fd)
                sources.pop(fd).response.close()
        if time.monotonic() - drawn >= _INTERVAL:
            drawn = time.monotonic()
            rows = [stats_row(source.name, source.sample, trunc=not values["no-trunc"]) for source in sources.values()]
            _show(app, values, rows, clear=True)


STATS = Command("stats", "[OPTIONS] [CONTAINER...]", "Display a live stream of container(s) resource usage statistics",
                _stats, flags=lambda: [
                    Flag("all", "a", BOOL, "Show all containers (default: running ones)"),
                    format_flag(),
                    Flag("no-stream", "", BOOL, "Show the first result only"),
                    Flag("no-trunc", "", BOOL, "Do not truncate"),
                ], aliases="container stats, stats", examples="barque stats --no-stream web")
