"""Chat templates compiled as transformers and vLLM compile them, without either; for `rendering`."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE_DATE = datetime(2024, 7, 26)
"""What `strftime_now` tells: the same file must give the same ids tomorrow. It is the date in Llama 3's templates."""


_DICT_ATTRIBUTES = frozenset(dir(dict))
_PLAIN_JSON = json.JSONEncoder(ensure_ascii=False)


class ChatTemplate:
    """Not for several threads at once: `{% generation %}` notes its place while the text is made."""

    def __init__(self, source: str) -> None:
        """Raises jinja2.TemplateSyntaxError."""
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = TEMPLATE_DATE.strftime
        tag = environment.extensions[_GenerationTag.identifier]
        assert isinstance(tag, _GenerationTag)
        self._tag = tag
        self._template = environment.from_string(source)
        self._globals = dict(self._template.globals)  # copied for every context; theirs is slow to copy

    @property
    def has_generation_tags(self) -> bool:
        return self._tag.is_used

    def render(self, **variables: Any) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the start and end in it of each `{% generation %}` block. Raises what the template raises:
        jinja2.TemplateError, or the TypeError, ValueError or LookupError of an expression in it."""
        self._tag.blocks = blocks = []
        self._tag.spans = []
        context = self._template.new_context({**self._globals, "documents": None, **variables}, shared=True)
        # One block after the other: a tag knows its place only while what stands before it has been collected.
        for block in self._template.root_render_func(context):
            blocks.append(block)  # noqa: PERF402 (see above)
        return "".join(blocks), self._tag.spans


class _Sandbox(ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        # A shorter way to the same: rows are dicts, where Jinja would first look for a method of that name.
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        # The same for macros, which the template itself has made: Jinja would look whether they may be called, and how.
        if type(obj) is Macro:
            kwargs.pop("_block_vars", None)
            kwargs.pop("_loop_vars", None)
            return obj(context.eval_ctx, *args, **kwargs)
        return super().call(context, obj, *args, **kwargs)


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` around what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 (declared so by jinja2)

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.is_used = False
        self.blocks: list[str] = []
        self.spans: list[tuple[int, int]] = []

    def parse(self, parser: Parser) -> nodes.Node:
        self.is_used = True
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("note_span"), [], [], body).set_lineno(line)

    def note_span(self, caller: Callable[[], str]) -> str:
        text = caller()
        start = sum(map(len, self.blocks))
        self.spans.append((start, start + len(text)))
        return text


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML."""
    if not (ensure_ascii or indent or separators or sort_keys):
        return _PLAIN_JSON.encode(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
