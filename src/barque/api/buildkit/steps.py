"""The builder's events as lines of a board: one for each step that makes something, as BuildKit shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from barque.api.buildkit.board import Board, Line
from barque.build import events
from barque.build.options import BuildOptions
from barque.build.plan import PlannedStage
from barque.errors import BarqueError
from barque.image.progress import Progress
from barque.oci.reference import parse

#: The other instructions only set values; they are shown where they fail.
_SHOWN = frozenset({"RUN", "COPY", "ADD", "WORKDIR"})


class Located(BarqueError):
    """A failure with the statement of the Dockerfile that it is about; lines count from 1."""

    def __init__(self, error: BarqueError, filename: str, dockerfile: bytes, line: int) -> None:
        super().__init__(error.message)
        self.status = error.status
        self.filename = filename
        self.dockerfile = dockerfile
        self.line = line


class Steps:
    """Hears the events of one build. ``offered``: called with the token and the number of an output for the client.
    ``dockerfile``: set once it is known.
    """

    def __init__(self, board: Board, options: BuildOptions, offered: Callable[[str, int | str], None]) -> None:
        self._board = board
        self._options = options
        self._offered = offered
        self._stages: dict[str, PlannedStage] = {}
        self._done: dict[str, int] = {}
        self._hidden: dict[int, events.StepBegun] = {}
        self._lines: dict[int, Line] = {}
        self.dockerfile = ""
        self._failed_line = 0

    def expect(self, stages: Sequence[PlannedStage]) -> None:
        """What will be built; called before the first step begins."""
        self._stages = {stage.start.name or str(stage.number): stage for stage in stages}

    def located(self, error: BarqueError, filename: str) -> BarqueError:
        return Located(error, filename, self.dockerfile.encode(), self._failed_line) if self._failed_line else error

    def hear(self, event: events.Event) -> None:
        match event:
            case events.StepBegun():
                self._begin(event)
            case events.StepOutput() if event.number in self._lines:
                self._lines[event.number].log(event.stream, event.text)
            case events.StepProgress() if event.number in self._lines:
                _progress(self._lines[event.number], event.message)
            case events.StepEnded():
                self._end(event)
            case events.BuildNote():
                self._note(event)

    def _begin(self, event: events.StepBegun) -> None:
        stage = self._stages.get(event.stage)
        first = event.stage not in self._done
        if stage is None or not (_has_image(stage) if first else _shown(event.text)):
            self._done.setdefault(event.stage, 0)
            self._hidden[event.number] = event
            return
        self._done[event.stage] = self._done.get(event.stage, 0) + 1
        place = f"{self._done[event.stage]}/{_has_image(stage) + sum(_shown(step.keyword) for step in stage.steps)}"
        if stage.start.name or len(self._stages) > 1:
            place = f"{stage.start.name or f'stage-{stage.number}'} {place}"
        text = f"FROM {parse(stage.base.image).with_default_tag()}" if first else event.text
        self._lines[event.number] = self._board.begin(f"[{place}] {text}", event.time)

    def _end(self, event: events.StepEnded) -> None:
        hidden = self._hidden.pop(event.number, None)
        if hidden is not None and event.error:
            self._lines[event.number] = self._board.begin(hidden.text, hidden.time)
        line = self._lines.pop(event.number, None)
        if line is not None:
            line.end(event.time, cached=event.cached, error=event.error)

    def _note(self, note: events.BuildNote) -> None:
        outputs = self._options.outputs
        if note.kind == events.METADATA and (not outputs or any(not output.sent for output in outputs)):
            with self._board.step("exporting to image") as line:
                line.status(f"writing image {note.value['containerimage.config.digest']}", done=True)
                for tag in self._options.tags:
                    line.status(f"naming to {tag}", done=True)
        elif note.kind == events.OUTPUT:
            self._offered(note.value["Token"], note.value["Output"])
        elif note.kind == events.PLACE:
            self._failed_line = note.value["Line"]


def _has_image(stage: PlannedStage) -> bool:
    """Whether its base comes from somewhere: BuildKit shows no step for scratch or a stage above."""
    return stage.base.stage is None and not stage.base.is_scratch


def _shown(text: str) -> bool:
    """``text``: an instruction, or its keyword."""
    return text.partition(" ")[0].upper() in _SHOWN


def _progress(line: Line, message: Any) -> None:
    """A line of docker's progress of a pull."""
    if not isinstance(message, Progress) or not message.id:
        return
    detail = message.progress_detail or {}
    line.status(message.id, detail.get("current", 0), detail.get("total", 0),
                done=message.status in ("Pull complete", "Already exists"))
