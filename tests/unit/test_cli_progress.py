"""Progress streams look as docker's do, byte for byte."""

from __future__ import annotations

import pytest

from barque.cli.format.progress import StreamError, progress_text, show_all

PULL = [
    {"status": "Pulling from library/httpd", "id": "latest"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaa"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "bbb"},
    {"status": "Downloading", "progressDetail": {"current": 500, "total": 1000}, "id": "aaa"},
    {"status": "Pull complete", "progressDetail": {}, "id": "bbb"},
    {"status": "Digest: sha256:00"},
]


def shown(messages: list[dict[str, object]], columns: int) -> str:
    out: list[str] = []
    show_all(messages, out.append, columns)
    return "".join(out)


def test_terminal_lines_are_updated_in_place() -> None:
    bar = "[" + "=" * 25 + ">" + " " * 25 + "]     500B/1kB"
    assert shown(PULL, 120) == (
        "latest: Pulling from library/httpd\n"
        "\n\x1b[1A\x1b[2K\raaa: Pulling fs layer \r\x1b[1B"
        "\n\x1b[1A\x1b[2K\rbbb: Pulling fs layer \r\x1b[1B"
        f"\x1b[2A\x1b[2K\raaa: Downloading {bar}\r\x1b[2B"
        "\x1b[1A\x1b[2K\rbbb: Pull complete \r\x1b[1B"
        "Digest: sha256:00\n")


def test_elsewhere_progress_is_left_out() -> None:
    assert shown(PULL, 0) == ("latest: Pulling from library/httpd\naaa: Pulling fs layer\nbbb: Pulling fs layer\n"
                              "bbb: Pull complete\nDigest: sha256:00\n")


@pytest.mark.parametrize(("detail", "columns", "text"), [
    ({}, 200, ""),
    ({"current": 5}, 200, "      5B"),
    ({"current": 50, "total": 100}, 100, "     50B/100B"),
    ({"current": 150, "total": 100}, 100, "    150B"),
    ({"current": 1, "total": 2, "units": "layers"}, 100, "1/2 layers"),
    ({"current": 50, "total": 100, "start": 90}, 100, "     50B/100B 10s"),
])
def test_progress_text(detail: dict[str, object], columns: int, text: str) -> None:
    assert progress_text(detail, columns, 100.0) == text


def test_an_error_ends_the_display_and_aux_goes_elsewhere() -> None:
    aux: list[object] = []
    messages = [{"aux": {"ID": "x"}}, {"errorDetail": {"message": "no such image"}, "error": "no such image"}]
    with pytest.raises(StreamError, match="no such image"):
        show_all(messages, lambda _text: None, 0, aux.append)
    assert aux == [{"ID": "x"}]


def test_build_output_goes_through_as_it_is() -> None:
    assert shown([{"stream": "Step 1/2 : FROM x\n"}, {"stream": " ---> 00\n"}], 120) == "Step 1/2 : FROM x\n ---> 00\n"
