"""Templates of messages: the operator's own words, by audience, kind of receiver and event.

What one is offered is `TemplateValues`, and what it writes is plain text, which the receiver escapes for its channel. A
template is the operator's own; its values may hold anything. It runs in a sandbox, with bounds in time and size.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

from jinja2 import FunctionLoader, StrictUndefined, TemplateError, TemplateNotFound, TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict

from rollbackd.adapter import Message
from rollbackd.config import files
from rollbackd.config.positions import ConfigFault
from rollbackd.model import Priority
from rollbackd.notification_events import EVENTS, USERS, Audience
from rollbackd.plugins import unknown

ANY = "any"
"""Instead of a kind or an event in a template's name: all of them that have none of their own."""
SUFFIX = ".j2"
LONGEST = 64 * 2**10
"""Characters of one template, and of what it writes."""
_SECONDS = 0.1
"""The processor's time for one text; a usual one takes a hundredth of that."""
_STEPS = 5_000
"""Turns of all loops, macros and included templates together."""
_FIELDS, _TEXT, _TITLE = 40, 800, 300
_NAMES, _NAME, _LINK = 200, 63, 2000
"""So many fields, names of services, and characters of each are offered: all of them together are no text too long."""
_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "first", "int", "join", "last", "length", "list", "lower",
    "map", "reject", "rejectattr", "replace", "reverse", "round", "select", "selectattr", "string", "title", "trim",
    "truncate", "upper",
)  # fmt: skip


class TemplateField(BaseModel):
    """One thing that a message says."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    heading: str
    text: str


class TemplateValues(BaseModel):
    """What a template of a message is offered. Every name is there always; later versions may have more."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    audience: Audience
    """Who reads it: `notify.receivers[].audience`."""
    kind: str
    """How it is sent: `slack`, `email`, …"""
    event: str
    """`opened`, `recovered`, `refused`, …"""
    severity: Literal["info", "warning", "critical"]
    """How much it matters."""
    priority: Literal["P0", "P1", "P2", "P3", ""]
    """The most urgent of what it is about; empty when there is none."""
    service: str
    """The service; empty when it is about several, or about rollbackd itself."""
    services: list[str]
    """All services that it is about, 200 at most."""
    count: int
    """How many troubles it is about: more than 1 when they are told together."""
    incident: str
    """The incident's name; empty when there is none, or when there are several."""
    title: str
    """Our own title, in a line."""
    fields: list[TemplateField]
    """Our own lines, in the order of what matters most."""
    source: str
    """Who speaks: `daemon.name`."""
    link: str
    """Where its page is; empty without `daemon.url`, and for users."""
    time: str
    """When it happened: `2026-03-01 12:00:00 UTC`."""
    resolves: bool
    """Whether the trouble is over, and verified."""
    acknowledged: bool
    """Whether somebody said that they take care of it."""


class TemplateTrouble(Exception):  # noqa: N818  # it is told, and our own words are used
    """A template that cannot be used, with its place and what to do."""

    def __init__(self, name: str, line: int, text: str) -> None:
        self.name = name
        self.line = line
        self.text = text
        super().__init__(f"{name}:{line}: {text}")


@dataclass(frozen=True, slots=True)
class TemplateText:
    """What a template wrote: its first line, and the paragraphs after it."""

    title: str
    paragraphs: tuple[str, ...]


class _BoundsError(TemplateError):
    """A text that takes too long, or is too long."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2 without what is not needed for words: no functions but macros, no filter that makes much of little."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, sources: Mapping[str, str]) -> None:
        super().__init__(
            loader=FunctionLoader(lambda name: (sources[name], name, None) if name in sources else None),
            autoescape=False,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.globals.clear()
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self._left = 0
        self._ends = 0.0

    def begin(self) -> None:
        """Begin a text."""
        self._left, self._ends = _STEPS, time.thread_time() + _SECONDS

    @property
    def step(self) -> str:
        """Nothing; it is written at each turn of a loop, and counts them."""
        self._left -= 1
        if self._left < 0 or time.thread_time() > self._ends:
            raise _BoundsError(f"it takes more than {_STEPS} turns, or more than {_SECONDS * 1000:.0f} ms")
        return ""

    def is_safe_callable(self, obj: Any) -> bool:
        return isinstance(obj, Macro)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not all(isinstance(one, (int, float)) and abs(one) < 1e6 for one in (left, right)) or operator == "**":
            raise _BoundsError(f"`{operator}` is for small numbers; `~` puts texts together")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        parts: list[Any] = [tree, *tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))]
        for one in parts:
            count = nodes.Output([nodes.EnvironmentAttribute("step")])
            one.body.insert(0, count.set_lineno(one.lineno).set_environment(self))
        return tree


class MessageTemplates:
    """The templates of a folder, by their names in it: `team/slack/opened.j2`."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self._sandbox = _Sandbox(sources)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that messages are made of; parts of them, whose names begin with `_`, are left out."""
        return tuple(name for name in self._sources if not _is_part(name))

    def find(self, audience: Audience, kind: str, event: str) -> str:
        """The template of a message, the most special one first; empty: there is none."""
        for place in ((kind, event), (ANY, event), (kind, ANY), (ANY, ANY)):
            name = f"{audience}/{place[0]}/{place[1]}{SUFFIX}"
            if name in self._sources:
                return name
        return ""

    def write(self, name: str, values: TemplateValues) -> TemplateText:
        """The text. :raises TemplateTrouble: there is none, for whatever reason."""
        try:
            template = self._sandbox.get_template(name)  # it is made only once, which takes longer than a text
            self._sandbox.begin()
            written = "".join(_bounded(template.generate(values.model_dump())))
        except Exception as error:
            # Whatever a template does wrong comes as what Python says of it.
            raise self._trouble(name, error) from error
        title, _, rest = written.strip().partition("\n")
        if not title:
            raise TemplateTrouble(name, 1, "it writes nothing; its first line is the title")
        paragraphs = (part.strip("\n") for part in re.split(r"\n[^\S\n]*\n", rest))
        return TemplateText(title.strip(), tuple(part for part in paragraphs if part.strip()))

    def undefined(self, name: str) -> Iterator[TemplateTrouble]:
        """The names in a template that nothing stands for, also where no sample leads. :raises TemplateTrouble:"""
        try:
            tree = self._sandbox.parse(self._sources[name], name)
            missing = find_undeclared_variables(tree) - TemplateValues.model_fields.keys()
        except TemplateError as error:
            raise self._trouble(name, error) from error
        for node in tree.find_all(nodes.Name):
            if node.name in missing:
                missing.remove(node.name)
                yield TemplateTrouble(name, node.lineno, unknown("value", node.name, TemplateValues.model_fields))

    def _trouble(self, name: str, error: Exception) -> TemplateTrouble:
        """The trouble with its place: a syntax error has it; of any other it is the innermost that is in a template."""
        place, line, trace = name, 1, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename in self._sources:
                place, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
            trace = trace.tb_next
        if isinstance(error, TemplateSyntaxError):
            line = error.lineno
            place = error.name if error.name and error.name in self._sources else name
        said = (getattr(error, "message", None) or str(error) or type(error).__name__).strip().rstrip(".")
        if isinstance(error, TemplateNotFound):
            said = f'there is no template "{error.name}"'
        return TemplateTrouble(place, line, f"{said}; docs/configuration.md says what there is under Templates")


def _bounded(parts: Iterable[str]) -> Iterator[str]:
    size = 0
    for part in parts:
        size += len(part)
        if size > LONGEST:
            raise _BoundsError(f"it writes more than {LONGEST} characters")
        yield part


def _is_part(name: str) -> bool:
    return name.rpartition("/")[2].startswith("_")


def values_of(message: Message, audience: Audience, kind: str) -> TemplateValues:
    """What a template is offered of a message; each text has an end."""
    services = message.services or ((message.service,) if message.service else ())
    return TemplateValues(
        audience=audience,
        kind=kind,
        event=message.event,
        severity=message.severity,
        priority=message.priority.value if message.priority is not None else "",
        service=_cut(message.service, _NAME),
        services=[_cut(name, _NAME) for name in services[:_NAMES]],
        count=message.count,
        incident=_cut(message.incident, _TITLE),
        title=_cut(message.title, _TITLE),
        fields=[
            TemplateField(heading=_cut(heading, _TITLE), text=_cut(text, _TEXT))
            for heading, text in message.lines[:_FIELDS]
        ],
        source=_cut(message.source, _NAME),
        link=message.link[:_LINK] if audience == "team" else "",
        time=f"{message.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        resolves=message.resolves,
        acknowledged=message.acknowledged,
    )


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


# -- the folder ---------------------------------------------------------------------------------
def read(folder: Path) -> tuple[MessageTemplates, tuple[ConfigFault, ...]]:
    """The templates of a folder, and what cannot be read of it."""
    sources, faults = dict[str, str](), list[ConfigFault]()
    if not folder.is_dir():
        missing = "there is no such directory; make it, or take `templates` away"
        return MessageTemplates({}), (_fault(folder, "", 1, missing),)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.name.startswith(".") or path.name.endswith("~"):
            continue
        body, problem = files.body_of(path)
        if not problem and len(body) > LONGEST:
            problem = f"it is longer than {LONGEST} bytes; a message is not"
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError:
            problem = "this is not UTF-8; save the file as UTF-8"
        if problem:
            faults.append(_fault(folder, name, 1, problem))
        else:
            sources[name] = text
    return MessageTemplates(sources), tuple(faults)


def faults(folder: Path, kinds: Sequence[str]) -> Iterator[ConfigFault]:
    """All that is wrong with the templates of a folder: each is written with hostile samples of all that it is for."""
    templates, unread = read(folder)
    yield from unread
    for name in templates.names:
        if problem := misplaced(name, kinds):
            yield _fault(folder, name, 1, problem)
            continue
        audience, kind, event = name.removesuffix(SUFFIX).split("/")
        yield from _faults(folder, templates, name, partial(_samples, cast("Audience", audience), kind, event))


def _faults(
    folder: Path, templates: MessageTemplates, name: str, samples: Callable[[], Iterator[TemplateValues]]
) -> Iterator[ConfigFault]:
    try:
        if missing := list(templates.undefined(name)):
            yield from (_fault(folder, one.name, one.line, one.text) for one in missing)
            return
        for values in samples():
            templates.write(name, values)
    except TemplateTrouble as trouble:
        yield _fault(folder, trouble.name, trouble.line, trouble.text)


def _fault(folder: Path, name: str, line: int, text: str) -> ConfigFault:
    return ConfigFault(str(folder / name), line, 1, text)


def misplaced(name: str, kinds: Sequence[str]) -> str:
    """Why no message is ever made of a template with this name; empty: one is."""
    parts = name.removesuffix(SUFFIX).split("/")
    if not name.endswith(SUFFIX) or len(parts) != 3:
        return f"no message is made of this; a template is AUDIENCE/KIND/EVENT{SUFFIX}, a part of some is _NAME{SUFFIX}"
    audience, kind, event = parts
    if audience not in get_args(Audience):
        return unknown("audience", audience, get_args(Audience))
    if kind not in (*kinds, ANY):
        return unknown("kind of receiver", kind, (*kinds, ANY))
    heard = USERS if audience == "users" else EVENTS
    if event not in (*heard, ANY):
        return unknown("event of users" if audience == "users" and event in EVENTS else "event", event, (*heard, ANY))
    return ""


_HOSTILE = (
    "checkout",
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "x" * 10_000,
    "\u202egnp.exe\u200f \u0627\u0644",
    "{{ 7 * 7 }} {% for x in y %} {# ",
    "a\r\nBcc: all@example.com\x00\x1b[31m\ud800",
    "<!channel> <https://evil.example|click> *b* & %s %(a)s $service",
    "",
)


def _samples(audience: Audience, kind: str, event: str) -> Iterator[TemplateValues]:
    """What a template may meet: hostile texts everywhere, everything that may be absent, and many told together."""
    heard = tuple(USERS if audience == "users" else EVENTS) if event == ANY else (event,)
    for number, text in enumerate(_HOSTILE):
        plain = Message(
            key=text,
            event=heard[number % len(heard)],
            title=text,
            lines=((text, text),) * (number + 1),
            severity=("info", "warning", "critical")[number % 3],
            thread=text,
            at=datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=number),
            service=text,
            incident=text,
            priority=(None, *Priority)[number % 5],
            resolves=number % 2 == 0,
            acknowledged=number % 3 == 0,
            source=text,
            link=text,
        )
        yield values_of(plain, audience, kind)
        several = replace(plain, service="", incident="", services=(f"{text}{number}",) * 2000, count=2000)
        yield values_of(replace(several, lines=((text, text),) * 100), audience, kind)
        yield values_of(replace(plain, lines=(), service="", incident="", link="", priority=None), audience, kind)


def schema() -> dict[str, Any]:
    """The JSON Schema of what a template is offered."""
    return TemplateValues.model_json_schema()
