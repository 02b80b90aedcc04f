"""Rules: written in the file itself, in rule files that it names, and in shipped packs.

`$name` in any text of a rule file stands for its setting. A fault that comes from a value which the configuration gave
to a pack is shown at that value, since the pack itself is not the reader's to mend.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rollbackd.config import files
from rollbackd.config.explain import explain, faults_of, speaking
from rollbackd.config.positions import ConfigFault, Document, Loc, entries, mapping, names
from rollbackd.config.shape import RuleFile
from rollbackd.plugins import unknown
from rollbackd.rules.spec import Rule
from rollbackd.syntax.units import parse_duration, parse_ratio, show

_OWN = frozenset({"pack", "as", "services", "only"})
"""Keys of a pack's entry that are no settings of the pack."""
NO_SETTINGS: Mapping[str, object] = MappingProxyType({})
_SETTING = re.compile(r"\$([a-z_]+)")
"""A `$` before anything else, as at the end of a regular expression, stays what it is."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A rule and where its faults belong."""

    raw: object
    """As data, its settings filled in."""
    rule: Rule | None
    """None: it has faults, which are told already."""
    point: Callable[[Loc, str], ConfigFault]
    """Makes a fault of a location inside the rule and a text."""

    @property
    def name(self) -> str:
        name = mapping(self.raw).get("name")
        return name if isinstance(name, str) else ""


@dataclass(slots=True)
class Rules:
    """All rules in order, what is wrong with them, and the files they came from."""

    placed: list[Placed] = field(default_factory=list)
    faults: list[ConfigFault] = field(default_factory=list)
    sources: list[files.ConfigFile] = field(default_factory=list)
    settings: set[str] = field(default_factory=set)
    """The settings that its packs have."""


def read_rules(main: Document, base: Path, instead: Mapping[str, object] = NO_SETTINGS) -> Rules:
    """The rules that a configuration names; `base` is the directory that its patterns start from.

    :param instead: values of settings, for every pack that has such a setting.
    """
    rules = Rules()
    written = mapping(main.data).get("rules")
    for n, entry in enumerate(written if isinstance(written, list) else []):
        loc: Loc = ("rules", n)
        if isinstance(entry, str):
            _from_files(rules, main, loc, entry, base)
        elif isinstance(entry, dict) and "pack" in entry:
            _from_pack(rules, main, loc, entry, instead)
        else:
            rules.placed.append(Placed(entry, _valid(entry), _pointing(main, loc)))
    return rules


def _valid(raw: object) -> Rule | None:
    try:
        return Rule.model_validate(raw)
    except ValidationError:
        return None


def _pointing(document: Document, base: Loc) -> Callable[[Loc, str], ConfigFault]:
    return lambda loc, text: document.fault((*base, *loc), text)


def _from_files(rules: Rules, main: Document, loc: Loc, pattern: str, base: Path) -> None:
    try:
        paths = files.matching(pattern, base)
    except ValueError as error:
        rules.faults.append(main.fault(loc, str(error)))
        return
    if not paths:
        rules.faults.append(main.fault(loc, f'no file matches "{pattern}"; write one, or remove this line'))
    for path in paths:
        source = files.read(path)
        rules.sources.append(source)
        rules.faults += source.document.faults
        if source.document.root is not None:
            filled = _fill(source.document, {}, source.document.fault)
            rules.faults += filled.faults
            told = {(fault.line, fault.column) for fault in filled.faults}
            shape = _shape_faults(filled, source.document, {}, source.document.fault)
            rules.faults += [fault for fault in shape if (fault.line, fault.column) not in told]
            for place, raw in entries(mapping(filled.data).get("rules"), ("rules",)):
                rules.placed.append(Placed(raw, _valid(raw), _pointing(source.document, place)))


def _from_pack(
    rules: Rules, main: Document, loc: Loc, entry: Mapping[str, object], instead: Mapping[str, object]
) -> None:
    name, prefix = entry["pack"], entry.get("as")
    if not isinstance(name, str):
        return
    if name not in files.pack_names():
        rules.faults.append(main.fault((*loc, "pack"), unknown("pack", name, files.pack_names())))
        return
    source = files.read(files.packs() / f"{name}.yaml")
    rules.sources.append(source)
    rules.faults += source.document.faults
    if source.document.root is None:
        return
    declared = mapping(mapping(source.document.data).get("settings")).keys()
    rules.settings |= {str(key) for key in declared}
    given = {key: value for key, value in entry.items() if key not in _OWN}
    given |= {key: value for key, value in instead.items() if key in declared}

    def at_setting(knob: Loc, text: str) -> ConfigFault:
        return main.fault((*loc, *knob), text)

    filled = _fill(source.document, given, at_setting)
    rules.faults += filled.faults
    if not filled.faults:
        rules.faults += _shape_faults(filled, source.document, given, at_setting)
    written = list(entries(mapping(filled.data).get("rules"), ("rules",)))
    known = [str(raw.get("name")) for _, raw in written]
    only = dict(names(entry.get("only"), (*loc, "only")))
    for place, each in only.items():
        if each not in known:
            rules.faults.append(main.fault(place, unknown("rule", each, known)))
    services = [name for _, name in names(entry.get("services"), ())]
    for _, raw in written:
        if only and raw.get("name") not in only.values():
            continue
        named = dict(raw)
        if isinstance(prefix, str):
            named["name"] = f"{prefix}-{raw.get('name')}"
        if services:
            named["services"] = services
        rules.placed.append(Placed(named, _valid(named), _pointing_at_entry(main, loc)))


def _pointing_at_entry(main: Document, loc: Loc) -> Callable[[Loc, str], ConfigFault]:
    """Places of a pack's faults: the entry that uses it, since people cannot mend the pack, or its services."""
    return lambda inside, text: main.fault((*loc, *(inside if inside[:1] == ("services",) else ("pack",))), text)


# -- settings ----------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Filled:
    """A rule file with its settings filled in."""

    data: object
    faults: list[ConfigFault] = field(default_factory=list)
    used: dict[Loc, set[str]] = field(default_factory=dict)
    """Which settings stand in which text."""


def _fill(document: Document, given: Mapping[str, object], at_setting: Callable[[Loc, str], ConfigFault]) -> _Filled:
    declared = mapping(document.data).get("settings")
    settings = dict(declared) if isinstance(declared, dict) else {}
    filled = _Filled(None)
    for name, value in settings.items():
        if not _is_scalar(value):
            text = f'setting "{name}" is no single value; give it a text or a number'
            filled.faults.append(document.fault(("settings", name), text))
    for name, value in given.items():
        problem = _unfit(name, value, settings)
        if problem:
            filled.faults.append(at_setting((name,), problem))
        else:
            settings[name] = value

    def replace(value: object, loc: Loc) -> object:
        if isinstance(value, dict):
            return {key: replace(each, (*loc, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [replace(each, (*loc, n)) for n, each in enumerate(value)]
        return _replaced(value, loc) if isinstance(value, str) else value

    def _replaced(text: str, loc: Loc) -> object:
        names = set(_SETTING.findall(text))
        for name in sorted(names - settings.keys()):
            filled.faults.append(document.fault(loc, unknown("setting", f"${name}", [f"${key}" for key in settings])))
        filled.used[loc] = names
        if names - settings.keys():
            return text
        if (whole := _SETTING.fullmatch(text)) is not None:
            return settings[whole[1]]
        return _SETTING.sub(lambda found: _as_text(settings[found[1]]), text)

    rest = {key: replace(value, (key,)) for key, value in mapping(document.data).items() if key != "settings"}
    filled.data = ({"settings": declared} if "settings" in mapping(document.data) else {}) | rest
    return filled


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | bool | int | float)


def _as_text(value: object) -> str:
    """A setting inside a text; a percentage is a number there, since PromQL knows none."""
    if isinstance(value, str) and value.rstrip().endswith("%") and _reads(parse_ratio, value):
        return f"{parse_ratio(value):.12g}"
    return _as_written(value)


def _as_written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unfit(name: str, value: object, settings: Mapping[str, object]) -> str:
    """Why a pack's setting cannot have a value; empty when it can. A setting keeps its kind: a duration stays one."""
    if name not in settings:
        return unknown("setting of this pack", name, settings)
    if not _is_scalar(value):
        return f'setting "{name}" is a single value; write it like {_as_written(settings[name])}'
    for parse, word in ((parse_duration, "a duration"), (parse_ratio, "a number")):
        if _reads(parse, settings[name]):
            fits = _reads(parse, value)
            return "" if fits else f"{show(value)} is not {word}; write it like {_as_written(settings[name])}"
    return "" if isinstance(value, str) else f'setting "{name}" is text; put it in quotes'


def _reads(parse: Callable[[object], object], value: object) -> bool:
    try:
        parse(value)
    except ValueError:
        return False
    return True


def _shape_faults(
    filled: _Filled, document: Document, given: Mapping[str, object], at_setting: Callable[[Loc, str], ConfigFault]
) -> list[ConfigFault]:
    try:
        RuleFile.model_validate(filled.data)
    except ValidationError as error:
        if not given:
            return list(faults_of(error, RuleFile, document))
        errors = speaking(error.errors(include_url=False), RuleFile, document)
        return [_blamed(each, document, filled, given, at_setting) for each in errors]
    return []


def _blamed(
    each: ErrorDetails,
    document: Document,
    filled: _Filled,
    given: Mapping[str, object],
    at_setting: Callable[[Loc, str], ConfigFault],
) -> ConfigFault:
    """A fault of a pack; one that a setting causes is shown where the configuration gives that setting."""
    loc, text = explain(each, RuleFile, document)
    for name in sorted(filled.used.get(document.known(loc), set()) & given.keys()):
        return at_setting((name,), text)
    return document.fault(loc, text)
