"""YAML as plain data that still knows where everything stood. Reads no files; every fault is kept, none is raised.

Nodes are built from the parser's events, here, because of what PyYAML's own loaders do with a file like ours: the C
composer runs over the stack and kills the process on deep nesting, duplicate keys are silently dropped, `20:00` becomes
the number 1200, and a key `on` becomes True. Here keys are text, times and dates are text, and depth has a limit.
"""

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

Loc = tuple[str | int, ...]
"""The way to a value: keys and list positions from the top."""

_DEPTH = 60
"""Deepest nesting; a real file has about 12."""
_EXPANDED = 500_000
"""Values that aliases may add; ten lines of them can stand for billions."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset(word for text in ("yes", "on", "true") for word in (text, text.title(), text.upper()))
_FALSE = frozenset(word for text in ("no", "off", "false") for word in (text, text.title(), text.upper()))
_WHOLE = re.compile(r"[-+]?(?:0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?")
_TEXT_TAG = "tag:yaml.org,2002:str"


@dataclass(frozen=True, slots=True, order=True)
class ConfigFault:
    """One thing that is wrong in one place; lines and columns count from 1."""

    file: str
    line: int
    column: int
    text: str
    """What is wrong; what to do."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.text}"


_EMPTY: Final[dict[Any, Any]] = {}


def _none() -> dict[Any, Any]:
    """The empty mapping that all scalars share, never written to: two of its own would be half of a scalar's size."""
    return _EMPTY


@dataclass(slots=True)
class Node:
    """A value and where it begins; lines and columns count from 0."""

    line: int
    column: int
    data: object = None
    source: str = ""
    """A scalar as it was written."""
    keys: dict[str, tuple[int, int]] = field(default_factory=_none)
    """Where each key of a mapping stands."""
    items: dict[str | int, "Node"] = field(default_factory=_none)
    """The values of a mapping by their keys, those of a sequence by their positions."""
    size: int = 1
    """How many values it stands for, aliases expanded."""


class Document:
    """One file's data, and the faults that were found while reading it.

    `data` is None when nothing could be read; then there is at least one fault.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.faults: list[ConfigFault] = []
        self.root: Node | None = None
        builder = _Builder(self)
        try:
            self.root = builder.build(text)
        except _Unreadable as error:
            self.add(error.line, error.column, str(error))
        if self.root is not None and builder.added > _EXPANDED:
            self.add(0, 0, "its aliases stand for too many values; write them out, or use fewer")
            self.root = None

    @classmethod
    def unread(cls, name: str, fault: ConfigFault) -> "Document":
        """A document for a file that could not be read at all."""
        document = cls.__new__(cls)
        document.name, document.faults, document.root = name, [fault], None
        return document

    @property
    def data(self) -> object:
        """Dicts, lists, text, numbers, truths and None."""
        return None if self.root is None else self.root.data

    def add(self, line: int, column: int, text: str) -> None:
        """Keep a fault; line and column count from 0."""
        self.faults.append(ConfigFault(self.name, line + 1, column + 1, text))

    def fault(self, loc: Sequence[str | int], text: str) -> ConfigFault:
        """A fault at the key, or the list item, that a location names; parts that the file has not are skipped."""
        line, column = 0, 0
        for part, parent, node in self._along(loc):
            line, column = parent.keys[part] if isinstance(part, str) else (node.line, node.column)
        return ConfigFault(self.name, line + 1, column + 1, text)

    def known(self, loc: Sequence[str | int]) -> Loc:
        """The parts of a location that the file has; what validation adds (tags of unions) is left out."""
        return tuple(part for part, _, _ in self._along(loc))

    def source(self, loc: Sequence[str | int]) -> str:
        """A scalar as it was written; empty for anything else."""
        nodes = [self.root, *(node for _, _, node in self._along(loc))]
        return "" if nodes[-1] is None else nodes[-1].source

    def _along(self, loc: Sequence[str | int]) -> Iterator[tuple[str | int, Node, Node]]:
        """The parts of a location that the file has, each with the node around it and its own."""
        node = self.root
        for part in loc:
            if node is not None and part in node.items:
                parent, node = node, node.items[part]
                yield part, parent, node


class _Unreadable(Exception):  # noqa: N818  # control flow of this module
    """Nothing can be made of the file; `line` and `column` count from 0."""

    def __init__(self, line: int, column: int, text: str) -> None:
        super().__init__(text)
        self.line, self.column = line, column


class _Builder:
    """Makes nodes of events."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._anchors: dict[str, Node | None] = {}
        self.added = 0

    def build(self, text: str) -> Node:
        events = _events(text)
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise _Unreadable(*_mark(event), "a second document begins here; keep one in a file")
                root = self._node(next(events), events, 0)
        if root is None or root.data is None:
            raise _Unreadable(0, 0, "the file is empty; start from config.example.yaml")
        if not isinstance(root.data, dict):
            raise _Unreadable(root.line, root.column, "the file has no keys; write it like `services: [...]`")
        return root

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        if depth > _DEPTH:
            raise _Unreadable(*_mark(event), f"nested deeper than {_DEPTH} levels; make it flatter")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        node = Node(*_mark(event))
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if event.tag is not None and not self._usable_tag(event):
            self._document.add(*_mark(event), f"tag {_short(event.tag)} means nothing here; remove it")
        if isinstance(event, yaml.ScalarEvent):
            node.source = sys.intern(event.value)  # thousands of services say the same words
            node.data = _scalar(node.source) if event.implicit[0] else node.source
        elif isinstance(event, yaml.SequenceStartEvent):
            self._sequence(node, events, depth)
        else:
            self._mapping(node, events, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    @staticmethod
    def _usable_tag(event: Any) -> bool:
        return isinstance(event, yaml.ScalarEvent) and event.tag in {_TEXT_TAG, "!"}

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self._anchors:
            raise _Unreadable(*_mark(event), f'no anchor "&{event.anchor}" before this alias; define it above')
        node = self._anchors[event.anchor]
        if node is None:
            raise _Unreadable(*_mark(event), f'alias "*{event.anchor}" stands for itself; write its value out')
        self.added += node.size
        return node

    def _sequence(self, node: Node, events: Iterator[object], depth: int) -> None:
        items: dict[str | int, Node] = {}
        node.items = items
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            child = self._node(event, events, depth + 1)
            items[len(items)] = child
            node.size += child.size
        node.data = [child.data for child in node.items.values()]

    def _mapping(self, node: Node, events: Iterator[object], depth: int) -> None:
        merged: list[Node] = []
        node.keys, node.items = {}, {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._node(event, events, depth + 1)
            place = _mark(event)
            child = self._node(next(events), events, depth + 1)
            if not isinstance(event, yaml.ScalarEvent):
                self._document.add(*place, "a key is plain text; write it like `name: value`")
            elif key.source == "<<" and event.implicit[0]:
                merged.append(child)
            elif key.source in node.keys:
                first = node.keys[key.source][0] + 1
                text = f'duplicate key "{key.source}", first on line {first}; keep one of them'
                self._document.add(*place, text)
            else:
                _put(node, key.source, place, child)
        for child in merged:
            self._merge(node, child)
        node.data = {key: child.data for key, child in node.items.items()}

    def _merge(self, node: Node, source: Node) -> None:
        """Add the keys of `<<: *base` that the mapping does not have itself."""
        sources = list(source.items.values()) if isinstance(source.data, list) else [source]
        for each in sources:
            if not isinstance(each.data, dict):
                self._document.add(each.line, each.column, "`<<` takes in a mapping; name an alias of one")
                continue
            for key, place in each.keys.items():
                if key not in node.keys:
                    _put(node, key, place, each.items[key])


def _put(node: Node, key: str, place: tuple[int, int], child: Node) -> None:
    node.keys[key] = place
    node.items[key] = child
    node.size += child.size


def _mark(event: Any) -> tuple[int, int]:
    return event.start_mark.line, event.start_mark.column


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _scalar(text: str) -> object:
    """The value of a plain scalar: null, true or false, a finite number, else the text as it is."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _WHOLE.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _events(text: str) -> Iterator[object]:
    """The parser's events; its errors are worded by the slow parser, whose sentences are the same everywhere."""
    try:
        yield from yaml.parse(text, _LOADER)
    except yaml.YAMLError as fast:
        raise _worded(text, fast) from fast


def _worded(text: str, fast: yaml.YAMLError) -> "_Unreadable":
    try:
        for _ in yaml.parse(text, yaml.SafeLoader):
            pass
    except yaml.MarkedYAMLError as error:
        return _unparsable(error)
    except yaml.reader.ReaderError as error:
        return _unprintable(text, error)
    # The fast one is stricter here and there: about "\\ud800", half of a character.
    return (
        _unparsable(fast)
        if isinstance(fast, yaml.MarkedYAMLError)
        else _Unreadable(0, 0, f"this is not YAML: {fast}; mend it")
    )


def _unparsable(error: yaml.MarkedYAMLError) -> _Unreadable:
    mark = error.problem_mark or error.context_mark
    place = (0, 0) if mark is None else (mark.line, mark.column)
    problem = " ".join(part for part in (error.problem, error.context) if part)
    if "'\\t'" in problem:
        return _Unreadable(*place, "a tab at the start of a value; indent with spaces")
    return _Unreadable(*place, f"this is not YAML: {problem}; check the indentation and the quotes up to here")


def _unprintable(text: str, error: yaml.reader.ReaderError) -> _Unreadable:
    before = text[: error.position]
    line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
    return _Unreadable(line, column, f"character #x{error.character:04x} may not be in a YAML file; remove it")


# -- data that may be anything -----------------------------------------------------------------------
def mapping(value: object) -> Mapping[str, object]:
    """The mapping, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def entries(value: object, loc: Loc) -> Iterator[tuple[Loc, Mapping[str, object]]]:
    """The mappings in a list, each with its location."""
    for n, each in enumerate(value if isinstance(value, list) else []):
        if isinstance(each, dict):
            yield (*loc, n), each


def names(value: object, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """One text, or the texts in a list, each with its location."""
    if isinstance(value, str):
        yield loc, value
    for n, each in enumerate(value if isinstance(value, list) else []):
        if isinstance(each, str):
            yield (*loc, n), each


def quoted(found: Sequence[str]) -> str:
    """At most three names for a sentence."""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(f'"{each}"' for each in found[:3]) + more
