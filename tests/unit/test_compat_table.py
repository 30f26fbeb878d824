"""docs/compat.md says of each field and operation of the published API what it does here, and says the truth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from barque.api import app
from barque.api.routes import unsupported
from barque.engine.containers import validate
from barque.engine.containers.options import DeviceRequest
from barque.errors import BarqueError

HERE = Path(__file__).parent
PUBLISHED = [line for line in (HERE / "data" / "engine-api-1.55.txt").read_text().splitlines() if line[:1] != "#"]
FIELDS = [line for line in PUBLISHED if " " not in line]
OPERATIONS = [line for line in PUBLISHED if " " in line]
ROWS = dict(re.findall(r"^\| ([A-Z]\w+\.\w+|[A-Z]+ /[^|]*?) \| ([^|]+?) \|$",
                       (HERE.parents[1] / "docs" / "compat.md").read_text(), re.MULTILINE))
#: Values that stand for "something was asked for" in the fields that are refused as a whole.
ASKED = {"Cgroup": "container:x", "StorageOpt": {"size": "1g"}, "CpuCount": 1, "CpuPercent": 1, "IOMaximumIOps": 1,
         "IOMaximumBandwidth": 1, "DeviceRequests": [DeviceRequest(driver="nvidia")]}


def test_every_field_has_a_row() -> None:
    assert {row for row in ROWS if "." in row} == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_field_is_known_to_the_code(field: str) -> None:
    kind, _, name = field.partition(".")
    assert name in validate.HONOURED[kind] or name in validate.CHECKS[kind]


@pytest.mark.parametrize("field", [field for field in FIELDS if ROWS.get(field, "").startswith("refused")])
def test_refused_field_is_refused(field: str) -> None:
    kind, _, name = field.partition(".")
    with pytest.raises(BarqueError):
        validate.CHECKS[kind][name](ASKED[name])


@pytest.mark.parametrize("field", [field for field in FIELDS if ROWS.get(field, "").startswith("honoured")])
def test_honoured_field_is_no_refusal(field: str) -> None:
    name = field.partition(".")[2]
    assert name not in ASKED


def test_every_exception_is_an_operation() -> None:
    assert {row for row in ROWS if " " in row} <= set(OPERATIONS)


@pytest.mark.parametrize("operation", [row for row in ROWS if " " in row and row != "GET /plugins"])
def test_excepted_operation_has_an_answer_of_its_own(operation: str) -> None:
    """Not the "page not found" of a path that nobody knows."""
    method, path = operation.split(" ")
    made = app.build(unsupported.routes())
    path = path.replace("{name}", "x").replace("{id}", "x")
    assert any(route.method in (method, "*") and route.resource is not None
               and re.fullmatch(_pattern(route.resource.canonical), path) for route in made.router.routes())


def _pattern(canonical: str) -> str:
    return re.sub(r"\{[^}]*\}", ".+", canonical)
