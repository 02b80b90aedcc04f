"""What validation found, in sentences that say what to write. No I/O; never quotes what could be a secret."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from rollbackd.config.models import NAME
from rollbackd.config.positions import ConfigFault, Document, Loc
from rollbackd.plugins import unknown
from rollbackd.rules.spec import EVENT
from rollbackd.rules.spec import NAME as RULE_NAME
from rollbackd.rules.weight import LABEL
from rollbackd.syntax.units import show

_QUOTED = re.compile(r"'([^']*)'")
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}
_WANTS = {
    "bool": "write true or false",
    "int": "write a whole number, like 3",
    "float": "write a number, like 0.5",
    "list": "write a list, like [a, b]",
    "tuple": "write a list, like [a, b]",
    "set": "write a list, like [a, b]",
    "frozen": "write a list, like [a, b]",
    "dict": "write keys and values, like {name: value}",
    "mapping": "write keys and values, like {name: value}",
    "model": "write keys and values, like {name: value}",
    "string": "write text",
    "path": "write a path, like /srv/checkout",
}
_NEEDED = {
    "verify": 'a service without `verify` is never seen to recover; add it, like verify: {checks: [{http: "http://…"}]}',
    "match": "no labels say which signals belong to this service; add it, like match: {service: checkout}",
    "adapter": "nothing says what handles this layer; add it, like adapter: git",
    "layers": "there is nothing to roll back; add it, like layers: {code: {adapter: git, repo: /srv/checkout}}",
}


_ELSEWHERE = {
    ("verify", "skip_rules"): (
        "only a plan that switches something off leaves rules out; move it to that plan's `verify`"
    )
}
"""Keys that belong to a place like this one, and what to do; by the place's own key."""
_THEIRS = {
    **{name: ("tls", f"tls: {{{name}: PATH}}") for name in ("ca", "cert", "key")},
    "server_name": ("tls", "tls: {server_name: NAME}"),
    **dict.fromkeys(("username", "password"), ("basic_auth", "basic_auth: {username: NAME, password: {env: NAME}}")),
    "credentials": ("authorization", "authorization: {credentials: {env: NAME}}"),
    "tls_config": ("tls", "tls"),
    "ca_file": ("ca", "ca"),
    "cert_file": ("cert", "cert"),
    "key_file": ("key", "key"),
    "proxy_url": ("proxy", "proxy"),
    "http_headers": ("headers", "headers: {NAME: VALUE}"),
    "http_config": ("basic_auth", "basic_auth, authorization, headers, tls and proxy, beside this place's other keys"),
    "bearer_token": ("authorization", "authorization: {credentials: {env: NAME}}"),
    "bearer_token_file": ("authorization", "authorization: {credentials: {file: PATH}}"),
    "credentials_file": ("credentials", "credentials: {file: PATH}"),
    "password_file": ("password", "password: {file: PATH}"),
    "insecure_skip_verify": (
        "server_name",
        "ca: PATH with the server's own certificate, and server_name where it has another name; it is always verified",
    ),
    "form": ("send", "send: {form: {NAME: VALUE}}"),
    "body": ("send", "send: {body: TEXT}"),
}
"""Keys that Prometheus or others have for it: what there is here where the other of our keys is known."""


def faults_of(error: ValidationError, model: object, document: Document) -> Iterator[ConfigFault]:
    """The faults of a validation, each at its key, one for each place."""
    told: set[Loc] = set()
    for each in speaking(error.errors(include_url=False), model, document):
        loc, text = explain(each, model, document)
        place = document.known(each["loc"])
        if each["type"] == "missing" or place not in told:
            told.add(place)
            yield document.fault(loc, text)


def speaking(errors: Sequence[ErrorDetails], model: object, document: Document) -> list[ErrorDetails]:
    """The errors without those that only follow from others.

    Of a union, members that a value was not meant for complain of its type. A value of two kinds has keys that are
    unknown to each of them. A list whose items are wrong is reported as too short.
    """
    places = [document.known(each["loc"]) for each in errors]
    looked_into = {place[:n] for place in places for n in range(len(place))}
    clashes = {each["loc"][:-1] for each in errors if _is_extra(each) and _two_kinds(each["loc"], model)}
    kept = [
        each
        for each, place in zip(errors, places, strict=True)
        if not (each["type"].endswith("_type") and place in looked_into)
        and not (each["loc"][:-1] in clashes and not _two_kinds(each["loc"], model))
        and not (each["type"] == "too_short" and len(each["input"]) >= each["ctx"]["min_length"])
    ]
    return sorted(kept, key=lambda each: each["type"].endswith("_type"))


def _is_extra(error: ErrorDetails) -> bool:
    return error["type"] == "extra_forbidden"


def explain(error: ErrorDetails, model: object, document: Document) -> tuple[Loc, str]:
    """The place and the sentence of an error."""
    loc, kind, context = error["loc"], error["type"], error.get("ctx", {})
    given = error["input"]
    match kind:
        case "missing":
            return loc[:-1], _NEEDED.get(str(loc[-1]), f'missing key "{loc[-1]}"; add it')
        case "extra_forbidden":
            return loc, _unknown_key(loc, model)
        case "unknown_kind":
            return _unknown_kind(loc, given, context)
        case "value_error":
            return loc, str(context["error"])
        case "literal_error" | "enum":
            return loc, _not_one_of(_shown(given, document.source(loc)), context["expected"])
        case "string_pattern_mismatch":
            return loc, _not_a_name(given, context["pattern"])
        case "too_short" | "string_too_short":
            return loc, "this is empty; give it a value"
        case _ if kind in _BOUNDS:
            bound, words = _BOUNDS[kind]
            return loc, f"{show(given)} does not fit; write {words} {context[bound]}"
        case "kind":
            return loc, error["msg"]
        case _:
            return loc, _wrong_type(error, document.source(loc))


def _wrong_type(error: ErrorDetails, source: str) -> str:
    kind, given, message = error["type"], error["input"], error["msg"]
    if error.get("ctx", {}).get("class_name") == "Secret":
        return "a secret is never written here; write {env: NAME}, {file: PATH} or {credential: NAME}"
    if given is None:
        return "this is empty; give it a value, or remove the key"
    if kind == "string_type" and isinstance(given, bool | int | float):
        what = "true or false" if isinstance(given, bool) else "a number"
        return f"this must be text, and YAML reads it as {what}; put it in quotes"
    wanted = _WANTS.get(kind.partition("_")[0])
    if wanted is None:
        return f"{message[:1].lower()}{message[1:]}; `rollbackd schema` shows what fits"
    return f"{_shown(given, source)} does not fit; {wanted}"


def _shown(given: object, source: str) -> str:
    """A value as the file has it: `on`, not True."""
    if isinstance(given, dict):
        return "a mapping"
    if isinstance(given, list | tuple):
        return "a list"
    return show(source) if isinstance(given, bool) else show(given)


def _not_one_of(shown: str, expected: str) -> str:
    names = _QUOTED.findall(expected) or [expected]
    near = difflib.get_close_matches(shown.strip('"'), names, n=1, cutoff=0.6)
    remedy = f'did you mean "{near[0]}"?' if near else f"write one of {', '.join(names)}"
    return f"{shown} does not fit; {remedy}"


def _not_a_name(given: object, pattern: str) -> str:
    if pattern == LABEL:
        return f'{show(given)} is not a label\'s name; write one, like service or "service.name"'
    if pattern == EVENT:
        return f"{show(given)} is not an event's name; write letters, digits and . _ : -"
    if pattern in {NAME, RULE_NAME}:
        return f"{show(given)} is not a name; write a-z, 0-9 and . _ - in it, a letter or a digit first"
    return f"{show(given)} does not fit; write what matches {pattern}"


def _unknown_key(loc: Loc, model: object) -> str:
    key = str(loc[-1])
    if tuple(loc[-2:]) in _ELSEWHERE:
        return _ELSEWHERE[str(loc[-2]), key]
    if _two_kinds(loc, model):
        return f'"{_bare(loc[-2])}" and "{key}" are two kinds of one thing; write each by itself'
    known = keys_at(model, loc[:-1])
    beside, ours = _THEIRS.get(key, ("", ""))
    return f'unknown key "{key}"; here it is {ours}' if beside in known else unknown("key", key, known)


def _two_kinds(loc: Loc, model: object) -> bool:
    """Whether an unknown key, in a value that was taken for one kind of a union, names another kind."""
    kinds = {_bare(_tag(member)) for member in _members(model, loc[:-2])}
    return len(loc) > 1 and {str(loc[-1]), _bare(loc[-2])} <= kinds


def _bare(tag: str | int) -> str:
    return str(tag).strip("<>")


def _unknown_kind(loc: Loc, given: object, context: Mapping[str, str]) -> tuple[Loc, str]:
    word, kinds = context["word"], context["kinds"].split(", ")
    if word == "layer":
        if isinstance(given, dict) and isinstance(given.get("adapter"), str):
            return (*loc, "adapter"), unknown("adapter", given["adapter"], kinds)
        if isinstance(given, dict):
            near = difflib.get_close_matches("adapter", [str(key) for key in given], n=1, cutoff=0.6)
            return ((*loc, near[0]), unknown("key", near[0], ["adapter"])) if near else (loc, _NEEDED["adapter"])
        return loc, f"a layer is a mapping; write it like {{adapter: {kinds[0]}}}"
    if isinstance(given, dict):
        for key in given:
            if difflib.get_close_matches(str(key), kinds, n=1, cutoff=0.6):
                return (*loc, key), unknown(f"kind of {word}", str(key), kinds)
    return loc, f"no kind of {word} here; write one of {context['kinds']}"


# -- the types along a location ----------------------------------------------------------------------
def keys_at(model: object, loc: Loc) -> tuple[str, ...]:
    """The keys that a mapping at a location may have."""
    found: list[str] = []
    for each in _members(model, loc):
        base = _plain(each)
        if isinstance(base, type) and issubclass(base, BaseModel):
            found += [field.alias or name for name, field in base.model_fields.items()]
    return tuple(dict.fromkeys(found))


def _plain(annotation: object) -> object:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _tag(annotation: object) -> str:
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((each.tag for each in metadata if isinstance(each, Tag)), "")


def _members(annotation: object, loc: Loc) -> Iterator[object]:
    """The types that can stand at a location; more than one where it ends at a union."""
    base = _plain(annotation)
    if get_origin(base) in {Union, UnionType}:
        for member in get_args(base):
            if loc and _is_labelled(member, str(loc[0])):
                yield from _members(member, loc[1:])
            elif not loc or not _tag(member):
                yield from _members(member, loc)
    elif not loc:
        yield annotation
    elif isinstance(base, type) and issubclass(base, BaseModel):
        for name, field in base.model_fields.items():
            if loc[0] in {name, field.alias}:
                yield from _members(field.annotation, loc[1:])
    elif get_args(base):
        yield from _members(get_args(base)[1 if get_origin(base) is dict else 0], loc[1:])


def _is_labelled(member: object, label: str) -> bool:
    """Whether a part of a location stands for this member: its tag, or `Secret`, `function-after[…, Secret]`."""
    name = getattr(_plain(member), "__name__", "")
    return label == _tag(member) or (not _tag(member) and (label == name or label.endswith(f" {name}]")))
