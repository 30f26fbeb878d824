"""How a build is shown: a live tree in a terminal, plain lines elsewhere, from the events that the engine sends."""

from __future__ import annotations

import time
from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable
    from typing import Any

    Event = dict[str, Any]
    Write = Callable[[str], object]

#: Lines of output that are shown of a step that runs, and of one that failed.
_RECENT, _FAILED = 6, 30
_NANO = 1_000_000_000
_DIM, _RED, _GREEN, _BLUE, _BOLD, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[34m", "\x1b[1m", "\x1b[0m"
_UP, _CLEAR = "\x1b[{}A", "\r\x1b[J"


class Step:
    """One instruction, as far as it has come. ``said``: its last lines of output."""

    def __init__(self, event: Event) -> None:
        self.number = int(event["Number"])
        self.stage = str(event.get("Stage") or "")
        self.text = str(event.get("Text") or "")
        self.began = int(event.get("Time") or 0)
        self.seen = time.monotonic()
        self.seconds = -1.0
        self.cached = False
        self.why = self.error = self.status = ""
        self.said: list[str] = []
        self.rest = ""

    @property
    def ended(self) -> bool:
        return self.seconds >= 0

    @property
    def elapsed(self) -> float:
        return self.seconds if self.ended else time.monotonic() - self.seen

    def say(self, text: str) -> list[str]:
        """Take output; the lines that are complete now."""
        *lines, self.rest = (self.rest + text).split("\n")
        self.said = [*self.said, *lines][-_FAILED:]
        return lines

    def end(self, event: Event) -> None:
        self.seconds = max(0, int(event.get("Time") or 0) - self.began) / _NANO
        self.cached = bool(event.get("Cached"))
        self.why = str(event.get("Why") or "")
        self.error = str(event.get("Error") or "")
        if self.rest:
            self.say("\n")


class Steps:
    """What the events have told so far."""

    def __init__(self) -> None:
        self.id = ""
        self.total = 0
        self.stages: list[str] = []
        self.result = ""
        self.steps: dict[int, Step] = {}

    def take(self, event: Event) -> Step | None:
        """The step that the event is about, None for one about the whole build."""
        kind = event.get("Event")
        if kind == "build":
            self.id, self.total = str(event.get("Id") or ""), int(event.get("Total") or 0)
            self.stages = list(event.get("Stages") or ())
            return None
        if kind == "note" and event.get("Kind") == "metadata":
            found = event.get("Value") or {}
            names = f" named {found['image.name']}" if found.get("image.name") else ""
            self.result = f"image {found.get('containerimage.config.digest', '')}{names}"
        number = int(event.get("Number") or 0)
        if kind == "begun":
            self.steps[number] = Step(event)
        elif kind == "ended" and number in self.steps:
            self.steps[number].end(event)
        return self.steps.get(number)


class Plain:
    """A line for each thing that happens, with the number of its step."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._steps = Steps()

    def take(self, event: Event) -> None:
        step = self._steps.take(event)
        kind = event.get("Event")
        if step is None:
            if kind == "output":
                self._write(str(event.get("Text") or ""))
            elif kind == "note" and self._steps.result:
                self._write(f"{self._steps.result}\n")
        elif kind == "begun":
            stage = f"[{step.stage}] " if step.stage else ""
            self._write(f"#{step.number} {stage}{step.text}\n")
        elif kind == "output":
            self._lines(step, step.say(str(event.get("Text") or "")))
        elif kind == "progress":
            message = event.get("Message") or {}
            if message.get("status") and not message.get("progressDetail"):
                name = f"{message['id']}: " if message.get("id") else ""
                self._write(f"#{step.number} {name}{message['status']}\n")
        elif kind == "ended":
            self._ended(step)

    def _lines(self, step: Step, lines: list[str]) -> None:
        for line in lines:
            self._write(f"#{step.number} {step.elapsed:.3f} {line}\n")

    def _ended(self, step: Step) -> None:
        if step.cached:
            self._write(f"#{step.number} CACHED\n")
        elif step.error:
            self._write(f"#{step.number} ERROR {step.seconds:.1f}s: {step.error}\n")
        else:
            why = f" ({step.why})" if step.why else ""
            self._write(f"#{step.number} DONE {step.seconds:.1f}s{why}\n")

    def close(self) -> None:
        """Nothing is held back."""


class Tree:
    """The stages with their steps, drawn again and again. ``size``: columns and rows of the terminal."""

    def __init__(self, write: Write, size: Callable[[], tuple[int, int]]) -> None:
        self._write = write
        self._size = size
        self._steps = Steps()
        self._began = time.monotonic()
        self._drawn = 0
        self._ended = False

    def take(self, event: Event) -> None:
        step = self._steps.take(event)
        if step is not None and event.get("Event") == "output":
            step.say(str(event.get("Text") or ""))
        elif step is not None and event.get("Event") == "progress":
            message = event.get("Message") or {}
            step.status = f"{message.get('id') or ''} {message.get('status') or ''}".strip()

    def tick(self) -> None:
        """Draw what there is now over what was drawn before."""
        columns, rows = self._size()
        lines = self.lines(columns)
        if len(lines) >= rows:
            lines = [lines[0], *lines[len(lines) - rows + 2:]]
        self._draw(lines)

    def close(self) -> None:
        """Draw the whole tree for good."""
        self._ended = True
        self._draw([*self.lines(self._size()[0]), *filter(None, [self._steps.result])])
        self._drawn = 0

    def _draw(self, lines: list[str]) -> None:
        up = _UP.format(self._drawn) if self._drawn else ""
        self._write(up + _CLEAR + "".join(f"{line}\n" for line in lines))
        self._drawn = len(lines)

    def lines(self, columns: int) -> list[str]:
        """The tree in lines of at most ``columns``."""
        steps = sorted(self._steps.steps.values(), key=lambda step: step.number)
        done = sum(step.ended for step in steps)
        took = time.monotonic() - self._began
        found = [f"{_BOLD}[+] Building {took:.1f}s ({done}/{self._steps.total}){_PLAIN}"]
        found += [_line(step, " ", columns) for step in steps if not step.stage]
        for stage in self._steps.stages:
            own = [step for step in steps if step.stage == stage]
            if own:
                found.append(f" {_BLUE}{_cut(stage, columns - 1)}{_PLAIN}")
            for step in own:
                last = step is own[-1]
                found.append(_line(step, " └─ " if last else " ├─ ", columns))
                found += [f"{_DIM}{_cut((' ' if last else ' │') + '    ' * last + '   │ ' + line, columns)}{_PLAIN}"
                          for line in self._shown(step)]
        return found

    def _shown(self, step: Step) -> list[str]:
        if step.error:
            return [_clean(line) for line in step.said]
        if step.ended or self._ended:
            return []
        recent = [*step.said, step.rest] if step.rest else step.said
        return [_clean(line) for line in (recent or [step.status] * bool(step.status))[-_RECENT:]]


def _line(step: Step, branch: str, columns: int) -> str:
    mark, colour = ("✗", _RED) if step.error else ("✓", _GREEN) if step.ended else ("•", _BLUE)
    note = "CACHED" if step.cached else f"{step.elapsed:.1f}s"
    room = columns - len(branch) - 3 - len(note)
    text = _cut(_clean(step.text), room)
    why = f"  {step.why}" if step.why and len(text) + len(step.why) + 3 <= room else ""
    gap = " " * max(1, room - len(text) - len(why))
    return f"{branch}{colour}{mark}{_PLAIN} {text}{_DIM}{why}{_PLAIN}{gap}{note}"


@cache
def _control() -> re.Pattern[str]:
    """Sequences of a terminal (cursor and colours, titles), and other characters that are none to be seen."""
    import re

    return re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[^\[]?|"
                      r"[\x00-\x08\x0b-\x1f\x7f]")


def _clean(text: str) -> str:
    """Without what would move the cursor or change colours: it comes from the image."""
    return _control().sub("", text.rpartition("\r")[2] or text.rstrip("\r").rpartition("\r")[2]).expandtabs(4)


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else text[:max(0, columns - 1)] + "…"


class Raw:
    """Each event as a line of JSON."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def take(self, event: Event) -> None:
        from barque import fastjson

        self._write(fastjson.dumps(event) + "\n")

    def close(self) -> None:
        """Nothing is held back."""


class Live:
    """Feeds a tree and draws it ten times a second, also while no event comes."""

    def __init__(self, tree: Tree) -> None:
        import threading

        self._tree = tree
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            with self._lock:
                self._tree.tick()

    def take(self, event: Event) -> None:
        with self._lock:
            self._tree.take(event)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._tree.close()
