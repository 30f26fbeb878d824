"""Go's text/template: fields, variables, pipelines, if/with/range, templates within one another, comments, trimming.

``parse(text)`` gives a :class:`Template`; ``execute(data)`` renders it. Data are dicts, lists and scalars, or objects
with a ``fields`` dict (rows), whose missing fields are errors while a dict's missing keys depend on ``strict``.
"""

from __future__ import annotations

from barque.gotemplate.errors import TemplateError
from barque.gotemplate.lexer import pieces, tokens
from barque.gotemplate.values import FUNCTIONS, MISSING, Document, GoMap, show, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from barque.gotemplate.lexer import Token

    Scope = list[dict[str, Any]]
    Operand = Callable[["_Run", Any], Any]

#: ``range N`` over a number stops here.
MAX_STEPS = 1_000_000
#: Templates within one another.
MAX_DEPTH = 100
_VARIADIC = 0x04    # CO_VARARGS
_GO_TYPES = {str: "string", bool: "bool", int: "int", float: "float64"}


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _Run:
    """One execution: variables, output."""

    def __init__(self, data: Any, strict: bool, functions: dict[str, Callable[..., Any]],
                 templates: dict[str, list[_Node]]) -> None:
        self.strict = strict
        self.functions = functions
        self.templates = templates
        self.depth = 0
        self.scopes: Scope = [{"$": data}]
        self.out: list[str] = []

    def variable(self, name: str) -> Any:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise TemplateError(f'undefined variable "{name}"')

    def assign(self, name: str, value: Any) -> None:
        for scope in reversed(self.scopes):
            if name in scope:
                scope[name] = value
                return
        raise TemplateError(f'undefined variable "{name}"')

    def field(self, value: Any, name: str, path: str, place: str) -> Any:
        where = f'template: :{place}: executing "" at <{path}>:'
        fields = getattr(value, "fields", None)
        if fields is not None:
            if name not in fields:
                raise TemplateError(f'{where} can\'t evaluate field {name} in type '
                                    f"{getattr(value, 'type_name', 'struct')}")
            return fields[name]
        if isinstance(value, Document) and name in value.hidden:
            return value.hidden[name]
        if isinstance(value, dict):
            if name in value:
                return value[name]
            if self.strict and not isinstance(value, GoMap):
                raise TemplateError(f'{where} map has no entry for key "{name}"')
            return MISSING
        if value is None or value is MISSING:
            if self.strict:
                raise TemplateError(f'{where} nil data; no entry for key "{name}"')
            return MISSING
        raise TemplateError(f"{where} can't evaluate field {name} in type "
                            f"{_GO_TYPES.get(type(value), 'interface {}')}")


class _Pipeline:
    """``$x := command | command``."""

    def __init__(self, stages: list[list[Operand]], names: list[str], declares: bool) -> None:
        self.stages = stages
        self.names = names
        self.declares = declares

    def value(self, run: _Run, dot: Any) -> Any:
        result: Any = None
        for number, stage in enumerate(self.stages):
            extra = [result] if number else []
            head = stage[0](run, dot)
            arguments = stage[1:]
            if isinstance(head, _Function):
                result = head.call(run, dot, arguments, extra)
            elif callable(head):
                result = _called(head, [operand(run, dot) for operand in arguments] + extra)
            elif arguments or extra:
                raise TemplateError(f"can't give argument to non-function {show(head)}")
            else:
                result = head
        return result

    def bind(self, run: _Run, *values: Any) -> None:
        for name, value in zip(self.names, values, strict=False):
            if self.declares:
                run.scopes[-1][name] = value
            else:
                run.assign(name, value)


def _called(method: Callable[..., Any], arguments: list[Any]) -> Any:
    """A method of a row: takes one string."""
    if len(arguments) != 1:
        raise TemplateError(f"template: :1: wrong number of args: want 1 got {len(arguments)}")
    if not isinstance(arguments[0], str):
        raise TemplateError(f"template: :1: expected string; found {show(arguments[0])}")
    return method(*arguments)


class _Function:
    """A named function, as the first operand of a command; ``and`` and ``or`` evaluate no more than they need.

    ``place`` is where it stands, ``text`` the whole command: errors name both.
    """

    def __init__(self, name: str, place: str) -> None:
        self.name = name
        self.text = name
        self._place = place

    def __call__(self, _run: _Run, _dot: Any) -> _Function:
        return self

    def call(self, run: _Run, dot: Any, operands: list[Operand], extra: list[Any]) -> Any:
        if self.name in ("and", "or"):
            return self._choose(run, dot, [*operands, *[(lambda _run, _dot, item=item: item) for item in extra]])
        arguments = [operand(run, dot) for operand in operands] + extra
        if self.name == "call":
            raise self._error(self.text, "error calling call: there is no function to be called")
        function = run.functions[self.name]
        try:
            return function(*arguments)
        except TemplateError as error:
            raise self._error(self.text, str(error)) from None
        except (TypeError, ValueError, AttributeError):
            raise self._misused(function, len(arguments)) from None

    def _choose(self, run: _Run, dot: Any, operands: list[Operand]) -> Any:
        if not operands:
            raise self._error(self.name, f"wrong number of args for {self.name}: want at least 1 got 0")
        value: Any = MISSING
        for operand in operands:
            value = operand(run, dot)
            if truth(value) == (self.name == "or"):
                break
        return value

    def _misused(self, function: Callable[..., Any], got: int) -> TemplateError:
        code = function.__code__
        optional = len(function.__defaults__ or ())
        if got < code.co_argcount - optional or (got > code.co_argcount and not code.co_flags & _VARIADIC):
            least = "at least " if code.co_flags & _VARIADIC else ""
            return self._error(self.name, f"wrong number of args for {self.name}: want {least}{code.co_argcount} "
                                          f"got {got}")
        return self._error(self.text, f"wrong type for an argument of {self.name}")

    def _error(self, what: str, reason: str) -> TemplateError:
        return TemplateError(f'template: :{self._place}: executing "" at <{what}>: {reason}')


class Template:
    """A parsed template; may be executed any number of times."""

    def __init__(self, nodes: list[_Node], functions: dict[str, Callable[..., Any]],
                 templates: dict[str, list[_Node]]) -> None:
        self._nodes = nodes
        self._functions = functions
        self._templates = templates

    def execute(self, data: Any, *, strict: bool = False) -> str:
        """Render; raises :class:`TemplateError`. ``strict`` makes a missing map key an error."""
        run = _Run(data, strict, self._functions, self._templates)
        _render(self._nodes, run, data)
        return "".join(run.out)


class _Node:
    def __init__(self, kind: str, pipeline: _Pipeline | None = None, text: str = "") -> None:
        self.kind = kind
        self.pipeline = pipeline
        self.text = text
        self.body: list[_Node] = []
        self.otherwise: list[_Node] = []
        self.place = self.source = ""    # of an inclusion


def _render(nodes: list[_Node], run: _Run, dot: Any) -> None:
    for node in nodes:
        if node.kind == "text":
            run.out.append(node.text)
        elif node.kind == "break":
            raise _Break
        elif node.kind == "continue":
            raise _Continue
        elif node.kind == "template":
            _include(node, run, dot)
        else:
            assert node.pipeline is not None
            _evaluate(node, node.pipeline, run, dot)


def _evaluate(node: _Node, pipeline: _Pipeline, run: _Run, dot: Any) -> None:
    if node.kind == "range":
        _loop(node, pipeline, run, dot)
        return
    value = pipeline.value(run, dot)
    if node.kind == "print":
        if pipeline.names:
            pipeline.bind(run, value)
        else:
            run.out.append(show(value))
        return
    run.scopes.append({})
    pipeline.bind(run, value)
    chosen = node.body if truth(value) else node.otherwise
    _render(chosen, run, value if node.kind == "with" and truth(value) else dot)
    run.scopes.pop()


def _include(node: _Node, run: _Run, dot: Any) -> None:
    """``{{template "name" pipeline}}``: sees its own data alone, as dot and as ``$``."""
    if node.text not in run.templates:
        raise TemplateError(f'template: :{node.place}: executing "" at <{node.source}>: template "{node.text}" not '
                            "defined")
    if run.depth == MAX_DEPTH:
        raise TemplateError(f"template: :{node.place}: exceeded maximum template depth ({MAX_DEPTH})")
    data = node.pipeline.value(run, dot) if node.pipeline else None
    outer, run.scopes, run.depth = run.scopes, [{"$": data}], run.depth + 1
    _render(run.templates[node.text], run, data)
    run.scopes, run.depth = outer, run.depth - 1


def _loop(node: _Node, pipeline: _Pipeline, run: _Run, dot: Any) -> None:
    value = pipeline.value(run, dot)
    if isinstance(value, dict):
        items: list[tuple[Any, Any]] = sorted(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    elif isinstance(value, int) and not isinstance(value, bool):
        items = [(i, i) for i in range(min(value, MAX_STEPS))]
    elif value is None or value is MISSING:
        items = []
    else:
        raise TemplateError(f"range can't iterate over {show(value)}")
    depth = len(run.scopes)
    for key, item in items:
        run.scopes.append({})
        pipeline.bind(run, *((key, item) if len(pipeline.names) == 2 else (item,)))
        try:
            _render(node.body, run, item)
        except _Continue:
            pass
        except _Break:
            break
        finally:
            del run.scopes[depth:]
    if not items:
        _render(node.otherwise, run, dot)


def parse(text: str, functions: dict[str, Callable[..., Any]] | None = None) -> Template:
    """Parse; raises :class:`TemplateError`. ``functions`` are added to docker's own."""
    known = {**FUNCTIONS, **(functions or {})}
    parser = _Parser(text, known)
    return Template(parser.document(), known, parser.templates)


class _Parser:
    def __init__(self, text: str, functions: dict[str, Callable[..., Any]]) -> None:
        self._functions = functions
        self._root: list[_Node] = []
        self._stack: list[tuple[_Node, list[_Node], int]] = []  # open block, list being filled, blocks its end closes
        self._pieces = pieces(text)
        self._text = text
        self._offset = 0
        self._source = ""
        self.templates: dict[str, list[_Node]] = {}

    def _target(self) -> list[_Node]:
        return self._stack[-1][1] if self._stack else self._root

    def document(self) -> list[_Node]:
        for is_action, text, offset in self._pieces:
            if is_action:
                self._offset, self._source = offset, text
                self._action(tokens(text))
            elif text:
                self._target().append(_Node("text", text=text))
        if self._stack:
            raise TemplateError("template: :1: unexpected EOF")
        return self._root

    def _action(self, items: list[Token]) -> None:
        if not items:
            raise TemplateError("template: :1: missing value for command")
        word = items[0][1] if items[0][0] == "name" else ""
        if word in ("if", "with", "range"):
            self._open(_Node(word, self._pipeline(items[1:], word)), 1)
        elif word == "else":
            self._else(items[1:])
        elif word == "end":
            if not self._stack:
                raise TemplateError("template: :1: unexpected {{end}}")
            for _ in range(self._stack[-1][2]):
                self._stack.pop()
        elif word in ("break", "continue"):
            if not any(node.kind == "range" for node, _, _ in self._stack):
                raise TemplateError(f"template: :1: {{{{{word}}}}} outside {{{{range}}}}")
            self._target().append(_Node(word))
        elif word in ("define", "block"):
            self._define(word, items)
        elif word == "template":
            self._template(items, items[2:])
        else:
            self._target().append(_Node("print", self._pipeline(items, "command")))

    def _open(self, node: _Node, closes: int) -> None:
        self._target().append(node)
        self._stack.append((node, node.body, closes))

    def _define(self, word: str, items: list[Token]) -> None:
        """The body becomes a template; a block is included where it stands, too."""
        if word == "define" and self._stack:
            raise TemplateError("template: :1: unexpected <define> in command")
        name = self._name(items)
        if word == "block":
            self._template(items, items[2:] or self._missing("block clause"))
        elif len(items) > 2:
            raise TemplateError(f"template: :1: unexpected {items[2][1]!r} in define clause")
        node = _Node("define", text=name)
        self.templates[name] = node.body
        self._stack.append((node, node.body, 1))

    def _template(self, items: list[Token], data: list[Token]) -> None:
        node = _Node("template", self._pipeline(data, "template clause") if data else None, self._name(items))
        node.place, node.source = self._place(items[1][2]), "{{" + self._source + "}}"
        self._target().append(node)

    def _name(self, items: list[Token]) -> str:
        if len(items) < 2 or items[1][0] != "literal" or not isinstance(items[1][1], str):
            found = f"{items[1][1]!r}" if len(items) > 1 else '"}}"'
            raise TemplateError(f"template: :1: unexpected {found} in {items[0][1]} clause")
        return items[1][1]

    @staticmethod
    def _missing(context: str) -> list[Token]:
        raise TemplateError(f"template: :1: missing value for {context}")

    def _else(self, items: list[Token]) -> None:
        if not self._stack or self._stack[-1][1] is self._stack[-1][0].otherwise:
            raise TemplateError("template: :1: unexpected {{else}}")
        node, _, closes = self._stack.pop()
        self._stack.append((node, node.otherwise, closes))
        if items:
            kind = items[0][1]
            if kind not in ("if", "with") or kind != node.kind:
                raise TemplateError(f"template: :1: unexpected <{kind}> in else")
            self._open(_Node(kind, self._pipeline(items[1:], kind)), closes + 1)

    def _pipeline(self, items: list[Token], context: str) -> _Pipeline:
        names: list[str] = []
        declares = True
        operators = [i for i, item in enumerate(items) if item[0] == "assign"]
        if operators and all(item[0] == "variable" or item[1] == "," for item in items[: operators[0]]):
            names = [item[1] for item in items[: operators[0]] if item[0] == "variable"]
            declares = items[operators[0]][1] == ":="
            items = items[operators[0] + 1 :]
        if not items:
            self._missing(context)
        stages, rest = self._stages(items)
        if rest:
            raise TemplateError(f"template: :1: unexpected {rest[0][1]!r} in {context}")
        return _Pipeline(stages, names, declares)

    def _stages(self, items: list[Token]) -> tuple[list[list[Operand]], list[Token]]:
        stages: list[list[Operand]] = [[]]
        begin = items[0][2] if items else 0
        while items and items[0][1] != ")":
            if items[0][0] == "pipe":
                self._end_command(stages[-1], begin, items[0][2])
                stages.append([])
                items = items[1:]
                begin = items[0][2] if items else 0
                continue
            operand, items = self._operand(items, first=not stages[-1])
            stages[-1].append(operand)
        self._end_command(stages[-1], begin, items[0][2] if items else len(self._source))
        return stages, items

    def _end_command(self, operands: list[Operand], begin: int, end: int) -> None:
        if not operands:
            self._missing("command")
        if isinstance(operands[0], _Function):
            operands[0].text = self._source[begin:end].rstrip()

    def _operand(self, items: list[Token], *, first: bool) -> tuple[Operand, list[Token]]:
        kind, text, start = items[0]
        items = items[1:]
        base: Operand
        if text == "(" and kind == "paren":
            stages, items = self._stages(items)
            if not items:
                raise TemplateError("template: :1: unclosed left paren")
            items = items[1:]
            inner = _Pipeline(stages, [], True)
            base = inner.value
        elif kind == "field":
            return self._fields(lambda _run, dot: dot, text, start), items
        elif kind == "dot":
            return (lambda _run, dot: dot), items
        elif kind == "variable":
            base = _variable(text)
        elif kind == "literal":
            return _constant(text), items
        elif kind == "name" and text in ("true", "false", "nil"):
            return _constant({"true": True, "false": False, "nil": None}[text]), items
        elif kind == "name":
            if text not in self._functions and text not in ("and", "or", "call"):
                raise TemplateError(f'template: :1: function "{text}" not defined')
            function = _Function(text, self._place(start))
            if first:
                return function, items
            return (lambda run, dot: function.call(run, dot, [], [])), items
        else:
            raise TemplateError(f"template: :1: unexpected {text!r} in command")
        if items and items[0][0] == "chain":
            return self._fields(base, items[0][1], items[0][2]), items[1:]
        return base, items

    def _place(self, offset: int) -> str:
        """``line:column`` as text/template counts them."""
        before = self._text[: self._offset + offset]
        return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10)) - 1}"

    def _fields(self, base: Operand, path: str, start: int) -> Operand:
        names = path.strip(".").split(".")
        places = []
        for name in names:
            places.append(self._place(start))
            start += len(name) + 1

        def value(run: _Run, dot: Any) -> Any:
            current = base(run, dot)
            for name, place in zip(names[:-1], places, strict=False):
                current = run.field(current, name, path, place)
                current = current() if callable(current) else current
            current = run.field(current, names[-1], path, places[-1])
            return current() if callable(current) and not getattr(current, "wants_argument", False) else current

        return value


def _variable(name: str) -> Operand:
    return lambda run, _dot: run.variable(name)


def _constant(value: Any) -> Operand:
    return lambda _run, _dot: value
