"""How Go prints, compares and indexes values; used by the template engine."""

from __future__ import annotations

from barque.gotemplate.errors import TemplateError
from barque.gotemplate.quoting import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Missing:
    """An absent value: prints ``<no value>``, is false."""

    def __bool__(self) -> bool:
        return False


MISSING = Missing()


class Document(dict[str, object]):
    """A map in whose place docker has a struct: ``hidden`` are the fields as a template sees them."""

    def __init__(self, items: dict[str, object]) -> None:
        super().__init__(items)
        self.hidden: dict[str, object] = {}


class NilList(list[object]):
    """A list that Go has as nil: prints like an empty one, is null as JSON."""


class GoMap(dict[str, object]):
    """A map that Go has as a map, too: a key that is not there is no error."""


class NilMap(GoMap):
    """A map that Go has as nil: prints like an empty one, is null as JSON."""


def show(value: Any) -> str:
    """As fmt.Print does."""
    if value is None:
        return "<nil>"
    if value is MISSING:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
        text = repr(value)
        mantissa, sign, exponent = text.partition("e")
        return f"{mantissa}e{exponent[:1]}{exponent[1:].zfill(2)}" if sign else text
    if isinstance(value, dict):
        return "map[" + " ".join(f"{show(key)}:{show(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(show(item) for item in value) + "]"
    return str(value)


def truth(value: Any) -> bool:
    return bool(value) if not hasattr(value, "fields") else True


def to_json(value: Any) -> str:
    """As docker's ``json`` function: compact, HTML characters as they are."""
    from barque import fastjson

    if hasattr(value, "fields"):    # its own MarshalJSON is json.Marshal, which escapes
        return escape_html(fastjson.dumps(plain(value), sort_keys=True))
    return fastjson.dumps(plain(value))


def escape_html(text: str) -> str:
    """As Go's json.Marshal writes the characters that matter in HTML."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def to_pretty(value: Any) -> str:
    import json

    return json.dumps(plain(value), indent=4, ensure_ascii=False)


def plain(value: Any) -> Any:
    if value is MISSING or isinstance(value, (NilList, NilMap)):
        return None
    fields = getattr(value, "fields", None)
    if fields is not None:
        return {key: plain(item) for key, item in sorted(fields.items()) if not callable(item)}
    return value


def sprintf(form: str, *arguments: Any) -> str:
    """The verbs of fmt.Sprintf that templates use: v s d q t f g e x X c b o and %%, with flags, width, precision."""
    out: list[str] = []
    rest = list(arguments)
    position = 0
    while position < len(form):
        percent = form.find("%", position)
        if percent < 0 or percent == len(form) - 1:
            out.append(form[position:])
            if percent >= 0:
                out[-1] = form[position:percent] + "%!(NOVERB)"
            break
        out.append(form[position:percent])
        end = percent + 1
        while end < len(form) - 1 and form[end] in "+-# 0123456789.":
            end += 1
        spec, verb, position = form[percent + 1 : end], form[end], end + 1
        if verb == "%":
            out.append("%")
        elif not rest:
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_verb(spec, verb, rest.pop(0)))
    if rest:
        out.append("%!(EXTRA " + ", ".join(f"{_kind(item)}={show(item)}" for item in rest) + ")")
    return "".join(out)


def _kind(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "float64", str: "string", dict: "map[string]interface {}",
             list: "[]interface {}"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), "<nil>")


def _verb(spec: str, verb: str, value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if verb in "dboxXc" and number:
        return f"%{spec}{verb}" % int(value) if verb != "b" else _pad(spec, f"{int(value):b}")
    if verb in "eEfgG" and number:
        return f"%{spec}{verb}" % float(value)
    if verb == "T":
        return _pad(spec, _kind(value))
    if verb == "U" and number:
        return _pad(spec, f"U+{int(value):04X}")
    if verb == "q" and isinstance(value, (list, tuple)):
        return "[" + " ".join(_verb(spec, verb, item) for item in value) + "]"
    if verb == "v" and "#" in spec and isinstance(value, str):
        return quoted(value)
    if verb in "sv":
        return f"%{spec.replace('0', '', 1) if spec.startswith('0') else spec.replace('#', '')}s" % show(value)
    if verb == "q" and isinstance(value, str):
        return _pad(spec, quoted(value))
    if verb == "t" and isinstance(value, bool):
        return _pad(spec, show(value))
    if verb in "xX" and isinstance(value, str):
        return _pad(spec, value.encode().hex() if verb == "x" else value.encode().hex().upper())
    return f"%!{verb}({_kind(value)}={show(value)})"


def _pad(spec: str, text: str) -> str:
    return f"%{spec}s" % text


def _comparable(a: Any, b: Any, name: str) -> None:
    kinds = [_kind(value) for value in (a, b)]
    if name in ("eq", "ne") and (a is None or b is None):
        return
    for value in (a, b):
        if isinstance(value, (list, dict)):
            raise TemplateError(f"error calling {name}: non-comparable type {show(value)}: {_kind(value)}")
    if kinds[0] != kinds[1]:
        raise TemplateError(f"error calling {name}: incompatible types for comparison")


def compare(name: str, test: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    def call(first: Any, *others: Any) -> bool:
        if not others:
            raise TemplateError(f"error calling {name}: missing argument for comparison")
        for other in others:
            _comparable(first, other, name)
        return any(test(first, other) for other in others)

    return call


def index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if hasattr(value, "fields"):
            value = value.fields
        if isinstance(value, dict):
            if not isinstance(key, str):
                raise TemplateError(f"error calling index: value has type {_kind(key)}; should be string")
            texts = isinstance(value, GoMap) and value and all(isinstance(item, str) for item in value.values())
            value = value.get(key, "" if texts else MISSING)
        elif isinstance(value, (list, tuple, str)):
            if not isinstance(key, int) or isinstance(key, bool):
                raise TemplateError(f"error calling index: cannot index slice/array with type {_kind(key)}")
            if not 0 <= key < len(value):
                raise TemplateError(f"error calling index: index out of range: {key}")
            value = value[key] if not isinstance(value, str) else ord(value[key])
        else:
            raise TemplateError("error calling index: index of untyped nil" if value in (None, MISSING)
                                else f"error calling index: can't index item of type {_kind(value)}")
    return value


def length(value: Any) -> int:
    if hasattr(value, "fields"):
        value = value.fields
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (dict, list, tuple)):
        return len(value)
    raise TemplateError("error calling len: len of nil pointer" if value in (None, MISSING)
                        else f"error calling len: len of type {_kind(value)}")


def part(value: Any, *bounds: int) -> Any:
    """``slice x 1 2`` is x[1:2]."""
    start = bounds[0] if bounds else 0
    end = bounds[1] if len(bounds) > 1 else len(value)
    if len(bounds) > 2:
        raise TemplateError("error calling slice: cannot 3-index slice a string" if isinstance(value, str)
                            else "error calling slice: capacities are not to be had here")
    for bound in (start, end):
        if not 0 <= bound <= len(value):
            raise TemplateError(f"error calling slice: index out of range: {bound}")
    if start > end:
        raise TemplateError(f"error calling slice: invalid slice index: {start} > {end}")
    return value[start:end]


def print_values(*values: Any) -> str:
    """fmt.Sprint: a space between operands when neither is a string."""
    out = ""
    for i, value in enumerate(values):
        if i and not isinstance(value, str) and not isinstance(values[i - 1], str):
            out += " "
        out += show(value)
    return out


def _text(value: Any) -> str:
    """What a function takes as a string: nothing else is turned into one."""
    if not isinstance(value, str):
        raise TemplateError(f"expected string; found {show(value)}")
    return value


def title(value: Any) -> str:
    """strings.Title: what follows something that is no letter, digit or underscore begins a word."""
    text = _text(value)
    return "".join(character.upper() if not i or not (text[i - 1].isalnum() or text[i - 1] == "_") else character
                   for i, character in enumerate(text))


def javascript(*values: Any) -> str:
    """template.JSEscaper."""
    short = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}
    return "".join(short.get(character) or (f"\\u{ord(character):04X}" if character < " " else character)
                   for character in print_values(*values))


def html(*values: Any) -> str:
    """template.HTMLEscaper."""
    names = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "'": "&#39;", '"': "&#34;", "\0": "\ufffd"}
    return "".join(names.get(character, character) for character in print_values(*values))


def query(*values: Any) -> str:
    """template.URLQueryEscaper."""
    from urllib.parse import quote_plus

    return quote_plus(print_values(*values))


def pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def join(values: Any, separator: str) -> str:
    if isinstance(values, str):
        raise TemplateError(f"can't handle {quoted(values)} for arg of type []string")
    return separator.join(show(value) for value in values or ())


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "prettyjson": to_pretty,
    "split": lambda text, separator: _text(text).split(separator) if separator else list(_text(text)),
    "join": join,
    "title": title,
    "lower": lambda text: _text(text).lower(),
    "upper": lambda text: _text(text).upper(),
    "pad": pad,
    "truncate": lambda text, size: _text(text)[:size],
    "html": html,
    "js": javascript,
    "urlquery": query,
    "println": lambda *values: " ".join(show(value) for value in values) + "\n",
    "print": print_values,
    "printf": sprintf,
    "len": length,
    "index": index,
    "slice": part,
    "not": lambda value: not truth(value),
    "eq": compare("eq", lambda a, b: bool(a == b)),
    "ne": compare("ne", lambda a, b: bool(a != b)),
    "lt": compare("lt", lambda a, b: bool(a < b)),
    "le": compare("le", lambda a, b: bool(a <= b)),
    "gt": compare("gt", lambda a, b: bool(a > b)),
    "ge": compare("ge", lambda a, b: bool(a >= b)),
}
