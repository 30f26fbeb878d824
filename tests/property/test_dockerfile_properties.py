"""Whatever the text, reading a Dockerfile ends in a value or in an error that names a line; nothing else escapes."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from barque.build.dockerfile.errors import DockerfileError, ExpansionError
from barque.build.dockerfile.expand import expand
from barque.build.dockerfile.parser import parse

_PIECES = st.sampled_from(["FROM a", "RUN ", "COPY ", "--from=b ", "<<EOF", "EOF", "\n", "\\\n", " ", "#",
                           "# escape=`\n", "ENV a=b", "[\"x\"]", "$A", "${A:-", "}", "'", '"',
                           "ONBUILD ", "ARG A", "\t", "\r\n", "é"])


@given(st.one_of(st.text(max_size=80), st.lists(_PIECES, max_size=20).map("".join)))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        dockerfile = parse(text)
    except DockerfileError as error:
        assert error.message
        return
    lines = [step.line for stage in dockerfile.stages for step in (stage.start, *stage.steps)]
    assert lines == sorted(lines)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines)


@given(st.lists(st.text("abc$ \\'\"", min_size=1, max_size=6).map(lambda word: word), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_quoted_words_come_back_as_they_were(words: list[str]) -> None:
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    assert expand(quoted, {}).words == words


@given(st.text("$ab{}:-+?#%/\\'\"<* \n", max_size=24),
       st.dictionaries(st.sampled_from("ab"), st.text("ab/*", max_size=4)))
@settings(max_examples=400, deadline=None)
def test_expansion_ends_and_uses_only_what_is_there(text: str, env: dict[str, str]) -> None:
    try:
        found = expand(text, env)
    except ExpansionError:
        return
    assert found.used <= set(env)
    assert not found.missing & set(env)
    if not re.search(r"[$'\"\\]", text):
        assert found.text == text


@given(st.lists(st.sampled_from(["RUN one", "COPY a b", "ENV a=b", "LABEL x=y"]), min_size=1, max_size=6), st.data())
@settings(max_examples=100, deadline=None)
def test_continuations_do_not_change_the_meaning(steps: list[str], data: st.DataObject) -> None:
    plain = parse("FROM a\n" + "\n".join(steps) + "\n")
    spread = []
    for step in steps:
        keyword, rest = step.split(" ", 1)
        glue = data.draw(st.sampled_from([" ", " \\\n", " \\\n# note\n", " \\  \n\t"]))
        spread.append(keyword + glue + rest)
    other = parse("FROM a\n" + "\n".join(spread) + "\n")
    assert [re.sub(r"\s+", " ", step.text) for step in other.stages[0].steps] == \
        [step.text for step in plain.stages[0].steps]
