"""The template engine renders what Go's text/template renders."""

from __future__ import annotations

import pytest

from barque.cli.format.table import Row, label_getter, render
from barque.cli.format.tabwriter import align
from barque.cli.format.types import typed
from barque.gotemplate.errors import TemplateError
from barque.gotemplate.quoting import quoted
from barque.gotemplate.template import parse

DATA = {"A": "z", "B": [1, 2], "M": {"k": "v", "a.b": 3}, "L": [{"N": "n"}], "F": 1.5, "T": True, "Z": None, "E": []}


@pytest.mark.parametrize(("template", "text"), [
    ("{{.A}}-{{json .B}}", "z-[1,2]"),
    ("{{.B}} {{.M}} {{.T}} {{.F}} {{.Z}} {{.Q}}", "[1 2] map[a.b:3 k:v] true 1.5 <nil> <no value>"),
    ("{{range $i, $e := .B}}{{$i}}={{$e}};{{end}}", "0=1;1=2;"),
    ("{{range .E}}x{{else}}none{{end}}", "none"),
    ("{{range $k, $v := .M}}{{$k}}:{{$v}} {{end}}", "a.b:3 k:v "),
    ("{{range .B}}{{if eq . 2}}{{break}}{{end}}{{.}}{{end}}", "1"),
    ("{{range .B}}{{if eq . 1}}{{continue}}{{end}}{{.}}{{end}}", "2"),
    ('{{if eq .A "x"}}1{{else if eq .A "y" "z"}}2{{else}}3{{end}}', "2"),
    ('{{if eq .A "x"}}1{{else if .E}}2{{else}}3{{end}}!', "3!"),
    ('{{if eq .A "y" "z"}}2{{end}}', "2"),
    ("{{with .M}}{{.k}}{{$.A}}{{end}}", "vz"),
    ("{{with .Z}}x{{else}}y{{end}}", "y"),
    ('{{index .M "a.b"}} {{(index .L 0).N}} {{index .B 1}}', "3 n 2"),
    ('{{.A | upper | printf "%q %5s|%-5s|" "x" "y"}}', '"x"     y|Z    |'),
    ('{{printf "%05d %.2f %v %t %x" 42 .F .B .T 255}}', "00042 1.50 [1 2] true ff"),
    ("{{len .B}}{{len .A}}{{len .M}}", "212"),
    ('{{join (split "a,b" ",") "+"}} {{title "ab cd"}} {{truncate "abcdef" 3}} {{pad "x" 2 1}}|',
     "a+b Ab Cd abc   x |"),
    ("{{and .T .A}} {{or .E .A}} {{not .T}} {{lt 1 2}} {{ge 1 2}} {{ne 1 2}}", "z z false true false true"),
    ("{{- /* no */ -}} x {{- .A -}} y", "xzy"),
    ("{{$x := 3}}{{$x}}{{$x = 4}}{{$x}}", "34"),
    ("{{println .A 1}}", "z 1\n"),
    ('{{define "x"}}[{{.}}{{$}}]{{end}}{{template "x" .A}}{{template "x" 1}}', "[zz][11]"),
    ('{{define "x"}}a{{end}}{{template "x"}}{{block "b" .A}}<{{.}}>{{end}}', "a<z>"),
    ('{{block "q" .A}}{{template "r" .}}{{end}}{{define "r"}}({{.}}){{end}}', "(z)"),
    ('{{range .B}}{{template "x" .}}{{end}}{{define "x"}}{{if eq . 1}}one{{else}}more{{end}}{{end}}', "onemore"),
    ("""{{urlquery "a b&c=d/é"}} {{html "<a>&\\"'"}} {{js "a'b\\"<>\\n"}}""",
     "a+b%26c%3Dd%2F%C3%A9 &lt;a&gt;&amp;&#34;&#39; a\\'b\\\"\\u003C\\u003E\\u000A"),
    ('{{printf "%T %T" 1 "a"}} {{printf "%U" 65}} {{printf "%q" (split "a b" " ")}} {{printf "%#v" "a"}}',
     'int string U+0041 ["a" "b"] "a"'),
    ('{{title "don\'t o-k a_b"}}', "Don'T O-K A_b"),
    ("{{slice .A 0 1}}{{`raw\\n`}}", "zraw\\n"),
    ('{{"}}"}}', "}}"),
])
def test_renders(template: str, text: str) -> None:
    assert parse(template).execute(DATA) == text


@pytest.mark.parametrize(("template", "error"), [
    ("{{.A", "template: :1: unclosed action"),
    ("{{foo}}", 'template: :1: function "foo" not defined'),
    ('{{template "x"}}', 'template: :1:11: executing "" at <{{template "x"}}>: template "x" not defined'),
    ('{{if true}}{{define "q"}}z{{end}}{{end}}', "template: :1: unexpected <define> in command"),
    ("{{define}}x{{end}}", 'template: :1: unexpected "}}" in define clause'),
    ("{{template}}", 'template: :1: unexpected "}}" in template clause'),
    ('{{define "x"}}1', "template: :1: unexpected EOF"),
    ('{{define "x"}}{{template "x"}}{{end}}{{template "x"}}', "exceeded maximum template depth (100)"),
    ("{{if}}x{{end}}", "template: :1: missing value for if"),
    ("{{eq 1 1.0}}", 'executing "" at <eq 1 1.0>: error calling eq: incompatible types for comparison'),
    ("{{eq .B .B}}", "error calling eq: non-comparable type [1 2]: []interface {}"),
    ("{{len}}", 'template: :1:2: executing "" at <len>: wrong number of args for len: want 1 got 0'),
    ("{{index}}", 'executing "" at <index>: wrong number of args for index: want at least 1 got 0'),
    ("{{.A | truncate}}",
     'template: :1:7: executing "" at <truncate>: wrong number of args for truncate: want 2 got 1'),
    ("{{and}}", 'executing "" at <and>: wrong number of args for and: want at least 1 got 0'),
    ("{{index .M 1}}",
     'executing "" at <index .M 1>: error calling index: value has type int; should be string'),
    ('{{slice "abc" 5}}', 'executing "" at <slice "abc" 5>: error calling slice: index out of range: 5'),
    ("{{call .A}}", "error calling call: there is no function to be called"),
    ("{{lower 1}}", "expected string; found 1"),
    ("{{if .A}}", "template: :1: unexpected EOF"),
    ("{{end}}", "template: :1: unexpected {{end}}"),
    ("{{}}", "template: :1: missing value for command"),
    ("{{.A |}}", "template: :1: missing value for command"),
    ("{{(.A}}", "template: :1: unclosed left paren"),
])
def test_refuses(template: str, error: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(template).execute(DATA)
    assert str(caught.value).endswith(error)


def test_a_missing_key_is_an_error_where_asked_for() -> None:
    with pytest.raises(TemplateError) as caught:
        parse("{{.M.x}}").execute(DATA, strict=True)
    assert str(caught.value) == 'template: :1:4: executing "" at <.M.x>: map has no entry for key "x"'


def rendered(form: str) -> str:
    out: list[str] = []
    rows = [Row({"ID": "1", "Name": "a<b", "Label": label_getter({"com.x.my-key": "v"})}),
            Row({"ID": "2", "Name": "c", "Label": label_getter({})})]
    render(rows, form, "{{.ID}}\t{{.Name}}", {"ID": "ID", "Name": "NAME"}, out.append, "*x.Context")
    return "".join(out)


def test_list_formats() -> None:
    assert rendered("") == "ID        NAME\n1         a<b\n2         c\n"
    assert rendered("json") == '{"ID":"1","Name":"a\\u003cb"}\n{"ID":"2","Name":"c"}\n'
    assert rendered("{{.Name}}") == "a<b\nc\n"
    assert rendered('table {{.Name}}\\t{{.Label "com.x.my-key"}}') == "NAME      my key\na<b       v\nc         \n"


def test_a_field_that_no_row_has() -> None:
    with pytest.raises(TemplateError, match=r"can't evaluate field Foo in type \*x.Context"):
        rendered("{{.Foo}}")
    with pytest.raises(TemplateError, match=r"can't evaluate field Foo in type string"):
        rendered("{{.Name.Foo}}")


def test_nothing_splits_into_characters() -> None:
    assert rendered('{{range split .Name ""}}[{{.}}]{{end}}') == "[a][<][b]\n[c]\n"


def test_columns_end_where_a_line_lacks_them() -> None:
    text = align("a\tb\nlong-cell-here\tc\nplain\nx\ty")
    assert text == "a                b\nlong-cell-here   c\nplain\nx         y"


def test_wide_characters_take_two_columns() -> None:
    assert align("日本\tx\nab\ty") == "日本      x\nab        y"


@pytest.mark.parametrize(("template", "text"), [
    ("{{.ID}} {{.Id}} {{.Name}}|{{.State.Health}}|{{.State.Pid}}", "7 7 /n|<nil>|0"),
    ("{{.HostConfig.DNS}} {{.HostConfig.NanoCPUs}} {{.HostConfig.Memory}}", "[1.1.1.1] 5 0"),
    ("{{.GraphDriver.Data}}{{.NetworkSettings.IPAddress}}{{.Config.Labels}}", "map[]map[a:1 b:2]"),
    ("{{with index .NetworkSettings.Networks \"bridge\"}}{{.Links}} {{.DriverOpts}} {{json .Links}}{{end}}",
     "[] map[] null"),
    ("{{.Args}}{{json .Args}}{{.Config.Cmd}}{{json .HostConfig.Tmpfs}}{{json .Config.Env}}", "[]null[]null[]"),
    ("{{json .Config}}", '{"Cmd":null,"Env":[],"Labels":{"a":"1","b":"2"}}'),
    ("{{json .Config.Labels}}{{range .Mounts}}{{.Name}}{{.Type}}{{end}}", '{"a":"1","b":"2"}bind'),
    ("{{range .NetworkSettings.Networks}}{{.IPAddress}}/{{.Gateway}}{{end}}", "1.2.3.4/"),
])
def test_fields_of_types_that_docker_knows(template: str, text: str) -> None:
    document = {"Id": "7", "Name": "/n", "State": {"Status": "running"}, "Mounts": [{"Type": "bind"}],
                "HostConfig": {"Dns": ["1.1.1.1"], "NanoCpus": 5},
                "Config": {"Cmd": None, "Env": [], "Labels": {"b": "2", "a": "1"}}, "NetworkSettings": {
                    "Networks": {"bridge": {"IPAddress": "1.2.3.4", "Links": None, "DriverOpts": None}}}}
    assert parse(template).execute(typed(document, "Container"), strict=True) == text


def test_fields_that_no_type_has_are_errors() -> None:
    with pytest.raises(TemplateError, match='map has no entry for key "Nope"'):
        parse("{{.State.Nope}}").execute(typed({"State": {}}, "Container"), strict=True)


def test_plain_tables_are_what_the_engine_makes_of_them() -> None:
    rows = [Row({"Name": "n", "Size": "1kB"}), Row({"Name": "long-name-here", "Size": "2kB"})]
    headers = {"Name": "NAME", "Size": "SIZE"}
    out: list[str] = []
    render(rows, "table {{.Name}}\t{{.Size}}", "", headers, out.append)
    render(rows, "table {{ .Name}}\t{{.Size }}", "", headers, out.append)
    assert out[0] == out[1] == "NAME             SIZE\nn                1kB\nlong-name-here   2kB\n"
    with pytest.raises(TemplateError, match="can't evaluate field Nope"):
        render(rows, "table {{.Name}}\t{{.Nope}}", "", headers, out.append)


def test_quoting_is_gos() -> None:
    assert quoted('a"b\n\x01é') == '"a\\"b\\n\\x01é"'


def test_rows_as_json_and_titles_under_functions() -> None:
    row = Row({"Names": "A", "Ports": "1->2", "Label": label_getter({"x": "y"})})
    out: list[str] = []
    render([row], "{{json .}}", "", {}, out.append)
    render([row], "table {{lower .Names}}", "", {"Names": "NAMES"}, out.append)
    render([row], "table {{json .}}", "", {"Names": "NAMES"}, out.append)
    line = '{"Names":"A","Ports":"1-\\u003e2"}\n'
    assert out == [line, "NAMES\na\n", "\n" + line]
    for wrong in ("{{.Label}}", "{{.Label 1}}"):
        with pytest.raises(TemplateError):
            render([row], wrong, "", {}, out.append)


def test_a_key_that_a_map_lacks_is_no_error() -> None:
    document = typed({"Config": {"Labels": {"a": "1"}}}, "Container")
    template = parse('{{.Config.Labels.b}}{{index .Config.Labels "b"}}')
    assert template.execute(document, strict=True) == "<no value>"
