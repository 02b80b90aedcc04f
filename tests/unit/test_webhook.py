"""Alertmanager's webhook: what real ones sent, what nobody should send, and the way through the inbox."""

import json
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.model import Alert
from rollbackd.signals.alertmanager_webhook import (
    LONGEST_TEXT,
    MOST_ALERTS,
    WebhookError,
    WebhookPayload,
    _Envelope,
    _WebhookAlert,
    alert_from_json,
    alert_to_json,
    fingerprint_of,
    inbox_key,
    parse_webhook,
)

DATA = Path(__file__).parent.parent / "data" / "alertmanager"
RECORDED = sorted(path.stem for path in DATA.glob("*.json"))


def recorded(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return body


def parse(body: Any) -> WebhookPayload:
    return parse_webhook(json.dumps(body).encode())


def sentence(body: bytes) -> str | None:
    """Why it was refused; None when it was not."""
    try:
        parse_webhook(body)
    except WebhookError as error:
        return str(error)
    return None


def with_alert(**changed: Any) -> dict[str, Any]:
    """A recorded notification of one firing alert, some fields of the alert changed; None takes one away."""
    body = recorded("firing-0.33")
    alert = {**body["alerts"][0], **changed}
    body["alerts"] = [{name: value for name, value in alert.items() if value is not None}]
    return body


def test_there_are_recorded_bodies() -> None:
    assert len(RECORDED) >= 7


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_alert_is_judged_by_its_own_status(name: str) -> None:
    body = recorded(name)
    webhook = parse_webhook((DATA / f"{name}.json").read_bytes())
    assert [alert.firing for alert in webhook.alerts] == [each["status"] == "firing" for each in body["alerts"]]
    assert [dict(alert.labels) for alert in webhook.alerts] == [each["labels"] for each in body["alerts"]]
    assert [alert.fingerprint for alert in webhook.alerts] == [each["fingerprint"] for each in body["alerts"]]
    assert webhook.group_key == body["groupKey"]
    assert webhook.group_labels == body["groupLabels"]


@pytest.mark.parametrize("name", RECORDED)
def test_a_computed_fingerprint_is_alertmanagers(name: str) -> None:
    for alert in recorded(name)["alerts"]:
        assert fingerprint_of(alert["labels"]) == alert["fingerprint"]


def test_a_group_with_a_resolved_member_has_both() -> None:
    webhook = parse_webhook((DATA / "group-mixed-0.33.json").read_bytes())
    assert [alert.firing for alert in webhook.alerts].count(False) == 1


def test_a_truncated_group_says_how_much_is_missing_and_its_receiver_is_unquoted() -> None:
    webhook = parse_webhook((DATA / "group-truncated-0.33.json").read_bytes())
    assert webhook.truncated == 1
    assert webhook.receiver == "truncated.hook"


@pytest.mark.parametrize(("quoted", "plain"), [(r"a\.b\-c", "a.b-c"), (r"back\\slash", "back\\slash"), ("x\\", "x")])
def test_a_receiver_is_unquoted(quoted: str, plain: str) -> None:
    assert parse({**recorded("firing-0.33"), "receiver": quoted}).receiver == plain


def test_nanoseconds_are_cut_as_alertmanagers_api_cuts_them_and_another_zone_becomes_utc() -> None:
    alert = parse(with_alert(startsAt="2026-11-22T03:09:16.884923999+02:00")).alerts[0]
    assert alert.starts_at == datetime(2026, 11, 22, 1, 9, 16, 884000, UTC)
    assert alert.starts_at.isoformat().endswith("+00:00")


@pytest.mark.parametrize(
    ("starts_at", "taken"),
    [
        ("0001-01-01T00:00:00Z", 1970), ("0001-01-01T00:00:00+02:00", 1970), ("1969-12-31T23:59:59Z", 1970),
        ("2199-12-31T23:59:59Z", 2199), ("9999-12-31T23:59:59Z", 2200), ("9999-12-31T23:59:59-14:00", 2200),
    ],
)  # fmt: skip
def test_a_start_at_the_end_of_all_time_is_one_that_can_be_reckoned_with(starts_at: str, taken: int) -> None:
    alert = parse(with_alert(startsAt=starts_at)).alerts[0]
    assert alert.starts_at.year == taken
    kept = alert_to_json(alert).replace(alert.starts_at.isoformat().encode(), starts_at.encode())
    assert alert_from_json(kept).starts_at == alert.starts_at, "so is what an inbox has from before"


@pytest.mark.parametrize("ends_at", [None, "0001-01-01T00:00:00Z", "2026-11-22T02:00:00Z"])
def test_a_firing_alert_has_not_ended_whatever_its_end_says(ends_at: str | None) -> None:
    assert parse(with_alert(endsAt=ends_at)).alerts[0].ends_at is None


@pytest.mark.parametrize("ends_at", [None, "0001-01-01T00:00:00Z"])
def test_a_resolved_alert_without_an_end_is_still_resolved(ends_at: str | None) -> None:
    assert not parse(with_alert(status="resolved", endsAt=ends_at)).alerts[0].firing


@pytest.mark.parametrize("fingerprint", [None, "", "../../etc/passwd", "06E3512AC1048DCA", "06e3512ac1048dca0"])
def test_a_fingerprint_that_is_none_is_computed(fingerprint: str | None) -> None:
    assert parse(with_alert(fingerprint=fingerprint)).alerts[0].fingerprint == "06e3512ac1048dca"


def test_unknown_fields_are_ignored_and_missing_optional_ones_are_empty() -> None:
    body = {
        "version": "4",
        "alerts": [{"status": "firing", "labels": {}, "startsAt": "2026-01-01T00:00:00Z", "new": 1}],
    }
    webhook = parse({**body, "new": {"a": []}})
    assert webhook.truncated == 0
    assert webhook.alerts[0].annotations == {}
    assert webhook.alerts[0].fingerprint == "cbf29ce484222325"


@pytest.mark.parametrize("field", sorted(_WebhookAlert.__optional_keys__))
def test_an_optional_field_of_an_alert_that_is_null_is_as_good_as_absent(field: str) -> None:
    body = with_alert()
    (alert,) = body["alerts"]
    absent = {name: value for name, value in alert.items() if name != field}
    assert parse({**body, "alerts": [{**alert, field: None}]}) == parse({**body, "alerts": [absent]})


NEEDLESS = ("groupKey", "groupLabels", "receiver")
NO_SUCH_VALUES: tuple[Any, ...] = ({"a": 1}, [], -1, True, [{}], {"a": {}})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, None) for field in sorted(_Envelope.__optional_keys__)),
        *((field, value) for field in NEEDLESS for value in NO_SUCH_VALUES),
    ],
)
def test_no_alert_is_lost_by_what_none_of_them_needs(field: str, value: Any) -> None:
    body = with_alert()
    absent = {name: each for name, each in body.items() if name != field}
    assert parse({**body, field: value}) == parse(absent)


@pytest.mark.parametrize("value", [-1, "3", 1.5, True, [], {"a": 1}])
def test_a_count_of_what_is_missing_that_cannot_be_read_says_that_some_may_be(value: Any) -> None:
    assert parse({**with_alert(), "truncatedAlerts": value}) == parse({**with_alert(), "truncatedAlerts": 1})


def test_a_group_of_nothing_is_a_webhook() -> None:
    assert parse({"version": "4", "alerts": []}).alerts == ()


@pytest.mark.parametrize(("version", "grafana"), [(4, False), ("4", False), (1, True), ("1", True)])
def test_a_version_may_be_a_number(version: str | int, grafana: bool) -> None:
    assert parse({**recorded("firing-0.33"), "version": version}).grafana is grafana


REFUSED = {
    "nothing": (b"", "the body is no JSON: EOF"),
    "no JSON": (b"alerts=1", "the body is no JSON"),
    "truncated": (b'{"version":"4","alerts":[', "the body is no JSON"),
    "no UTF-8": (b'{"version":"4","alerts":[],"receiver":"\xff"}', "the body is no JSON"),
    "escaped and truncated": (b'{"receiver":"\\ud800"', "the body is no JSON"),
    "a list": (b"[]", "this has no payload version; rollbackd reads Alertmanager's webhook of version 4"),
    "another version": (b'{"version":"3","alerts":[]}', "this has payload version '3'"),
    "another number's version": (b'{"version":3,"alerts":[]}', "this has payload version '3'"),
    "no alerts": (b'{"version":"4"}', "alerts: Field required"),
    "alerts of another type": (b'{"version":"4","alerts":{}}', "alerts: Input should be a valid array"),
    "deep": (b'{"version":"4","a":' + b"[" * 100_000 + b'"\\u0000"', "the body is no JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses(name: str) -> None:
    body, said = REFUSED[name]
    with pytest.raises(WebhookError) as error:
        parse_webhook(body)
    assert str(error.value).startswith(said)


ALERTS_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a label that is a number": ({"labels": {"a": 1}}, "alerts[0].labels.a: Input should be a valid string"),
    "no labels": ({"labels": None}, "alerts[0].labels: Field required"),
    "another status": ({"status": "pending"}, "alerts[0].status: Input should be 'firing' or 'resolved'"),
    "no status": ({"status": None}, "alerts[0].status: Field required"),
    "no start": ({"startsAt": None}, "alerts[0].startsAt: Field required"),
    "a start in seconds": ({"startsAt": 1700000000}, "alerts[0].startsAt: Input should be a valid datetime"),
    "a start without zone": ({"startsAt": "2026-01-01T00:00:00"}, "alerts[0].startsAt: Input should have timezone"),
}


@pytest.mark.parametrize("name", ALERTS_REFUSED)
def test_it_refuses_an_alert_with(name: str) -> None:
    changed, said = ALERTS_REFUSED[name]
    with pytest.raises(WebhookError) as error:
        parse(with_alert(**changed))
    assert str(error.value).startswith(said)


@given(
    st.lists(st.sampled_from(["good", *ALERTS_REFUSED, "a number", "null", "a list"]), min_size=1, max_size=8),
    st.sampled_from(["4", "1"]),
    st.booleans(),
)
def test_an_alert_that_cannot_be_read_never_costs_the_others(kinds: list[str], version: str, broken: bool) -> None:
    others: dict[str, Any] = {"a number": 1, "null": None, "a list": [[]]}
    alerts: list[Any] = []
    for place, kind in enumerate(kinds):
        labels = {"alertname": "A", "place": str(place)}
        made = with_alert(labels=labels, fingerprint=None)["alerts"][0]
        changed = {**made, **ALERTS_REFUSED[kind][0]} if kind in ALERTS_REFUSED else made
        alerts.append(others.get(kind, {name: value for name, value in changed.items() if value is not None}))
    body = json.dumps({**recorded("firing-0.33"), "version": version, "alerts": alerts}).encode()
    if broken:  # bytes that are no text
        body = body.replace(b'"place": "', b'"place": "\xff')
    good = [str(place) for place, kind in enumerate(kinds) if kind == "good"]
    if not good:
        assert sentence(body)
        return
    webhook = parse_webhook(body)
    assert [alert.labels["place"].removeprefix("\ufffd") for alert in webhook.alerts] == good
    assert len(webhook.damaged) == len(kinds) - len(good)
    bad = [str(place) for place, kind in enumerate(kinds) if kind != "good"]
    assert [why.partition("]")[0] for why in webhook.damaged] == [f"alerts[{place}" for place in bad]


def deep(levels: int) -> Any:
    made: Any = "x"
    for _ in range(levels):
        made = [made]
    return made


DAMAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.integers(2, 600).map(deep),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
) | st.just(10**400)
OPTIONAL = sorted(_WebhookAlert.__optional_keys__)


@given(
    st.dictionaries(st.sampled_from([*OPTIONAL, "values", "of nobody"]), DAMAGE),
    st.sampled_from(["firing", "resolved"]),
    st.booleans(),
)
def test_whatever_is_wrong_with_what_no_judgement_needs_costs_no_alert(
    damage: dict[str, Any], status: str, broken: bool
) -> None:
    body = with_alert()
    good = {**body["alerts"][0], "status": status, "labels": {"alertname": "A", "\0": "\ud800" if broken else "x"}}
    body["alerts"] = [good, {**good, **damage, "labels": {"alertname": "B"}}, good]
    webhook = parse(body)
    assert [alert.labels["alertname"] for alert in webhook.alerts] == ["A", "B", "A"]
    assert {(alert.firing, alert.starts_at) for alert in webhook.alerts} == {
        (status == "firing", webhook.alerts[0].starts_at)
    }
    assert alert_from_json(alert_to_json(webhook.alerts[1])) == webhook.alerts[1]


def test_what_people_read_of_odd_annotations_is_as_much_as_can_be_shown() -> None:
    odd = {"summary": "x", "number": 5, "list": ["a", None], "flag": False, "none": None}
    shown = {"summary": "x", "number": "5", "list": '["a", null]', "flag": "false"}
    assert parse(with_alert(annotations=odd)).alerts[0].annotations == shown
    for none in (7, "text", ["a"]):
        assert parse(with_alert(annotations=none)).alerts[0].annotations == {}


@pytest.mark.parametrize("url", [5, [], {"a": 1}, True])
def test_an_odd_link_is_none_and_an_odd_fingerprint_is_computed(url: Any) -> None:
    alert = parse(with_alert(generatorURL=url, fingerprint=url)).alerts[0]
    assert (alert.url, alert.fingerprint) == ("", "06e3512ac1048dca")


@pytest.mark.parametrize("ends_at", ["soon", 5, "9999-12-31T23:59:59-01:00", "0000-00-00T00:00:00Z", []])
def test_an_end_that_cannot_be_read_ends_an_alert_that_is_resolved_all_the_same(ends_at: Any) -> None:
    assert not parse(with_alert(status="resolved", endsAt=ends_at)).alerts[0].firing
    assert parse(with_alert(endsAt=ends_at)).alerts[0].ends_at is None


def test_grafanas_body_is_the_same() -> None:
    body = with_alert(values={"B": 44.2}, valueString="[ var='B' ]", orgId=1, silenceURL="https://g/")
    webhook = parse({**body, "version": "1", "orgId": 1, "title": "[FIRING:1] x", "state": "alerting", "message": "x"})
    assert webhook.alerts == parse(with_alert()).alerts
    assert (webhook.grafana, parse(with_alert()).grafana) == (True, False)


def test_nul_and_half_characters_are_replaced() -> None:
    body = with_alert(labels={"a": "x\0y", "b": "\ud800z", "c": "\U0001f600", "d\0": "ok"}, fingerprint=None)
    alert = parse(body).alerts[0]
    assert dict(alert.labels) == {"a": "x\ufffdy", "b": "\ufffdz", "c": "\U0001f600", "d\ufffd": "ok"}
    alert_to_json(alert).decode()


def test_nul_alone_is_replaced_too() -> None:
    assert parse(with_alert(annotations={"a": "x\0y"})).alerts[0].annotations == {"a": "x\ufffdy"}


def test_what_looks_like_a_template_a_path_or_a_command_stays_text() -> None:
    labels = {"a": "{{ .Labels }}", "b": "../../x", "c": "$(reboot)", "d": "%s\\u0000"}
    assert dict(parse(with_alert(labels=labels)).alerts[0].labels) == labels


TIMES = st.integers(0, 2**52).map(lambda micros: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(TEXT, TEXT), st.dictionaries(TEXT, TEXT), TIMES, st.none() | TIMES, TEXT)
def test_an_alert_survives_the_inbox(
    labels: dict[str, str], annotations: dict[str, str], start: datetime, end: datetime | None, url: str
) -> None:
    alert = Alert("00", labels, annotations, start, end, url)
    assert alert_from_json(alert_to_json(alert)) == alert


@pytest.mark.parametrize("body", [b"{}", b"[]", b"", b"null", b'{"fingerprint":""}'])
def test_what_the_inbox_never_wrote_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        alert_from_json(body)


@given(st.dictionaries(st.text(), st.text()))
def test_any_labels_whatever_are_read_and_written(labels: dict[str, str]) -> None:
    alert = parse(with_alert(labels=labels, fingerprint=None)).alerts[0]
    assert alert_from_json(alert_to_json(alert)) == alert
    assert len(alert.fingerprint) == 16


@given(st.binary(max_size=200))
def test_any_bytes_are_a_webhook_or_a_sentence(body: bytes) -> None:
    assert sentence(body) != ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["status", "labels", "annotations", "startsAt", "endsAt", "generatorURL", "fingerprint"]


@given(st.sampled_from(FIELDS), JSON)
def test_any_value_of_any_field_is_read_or_refused(name: str, value: Any) -> None:
    assert sentence(json.dumps(with_alert(**{name: value})).encode()) != ""


def test_the_same_news_has_the_same_key_and_the_end_has_another() -> None:
    firing, resolved = (
        parse_webhook((DATA / f"{name}-0.33.json").read_bytes()).alerts[0] for name in ("firing", "resolved")
    )
    assert inbox_key(firing) == "alert/06e3512ac1048dca/2026-11-22T01:09:16.884000+00:00/firing"
    assert inbox_key(resolved) == inbox_key(firing).replace("/firing", "/resolved")


def test_ten_thousand_alerts_are_read_quickly() -> None:
    body = recorded("firing-0.33")
    body["alerts"] = [{**body["alerts"][0], "fingerprint": f"{n:016x}"} for n in range(10_000)]
    data = json.dumps(body).encode()
    began = time.process_time()
    assert len(parse_webhook(data).alerts) == 10_000
    assert time.process_time() - began < 1.0, "of the second and a half that the whole intake may take, a part"


# -- what is too much --------------------------------------------------------------------------
TINY = '{"status":"firing","labels":{"service":"shop","n":"%d"},"startsAt":"2026-11-30T00:00:00Z"}'


def many(count: int, each: str = TINY) -> bytes:
    return ('{"version":"4","alerts":[' + ",".join(each % number for number in range(count)) + "]}").encode()


def refused(body: bytes) -> WebhookError:
    began = time.thread_time()
    with pytest.raises(WebhookError) as caught:
        parse_webhook(body)
    assert time.thread_time() - began < 2
    assert len(str(caught.value)) < 500
    return caught.value


def test_so_many_alerts_are_taken_and_one_more_is_not() -> None:
    assert len(parse_webhook(many(MOST_ALERTS)).alerts) == MOST_ALERTS
    error = refused(many(MOST_ALERTS + 1))
    assert (error.too_large, "more than 20000 alerts in one body" in str(error)) == (True, True)


@pytest.mark.parametrize(
    "made",
    [
        lambda: many(220_000),
        lambda: many(220_000, TINY.replace("startsAt", r"\u0073tartsAt")),
        lambda: many(220_000, TINY.replace("startsAt", "endsAt")),
        lambda: many(3_000_000, "%d"),
        lambda: many(MOST_ALERTS + 1, "%d"),
        lambda: b'{"version":"4","alerts":[],' + b",".join(b'"%d":1' % number for number in range(2_000_000)) + b"}",
    ],
    ids=["startsAt", "escaped", "none", "numbers", "a few numbers", "keys"],
)
def test_however_they_are_written_too_many_are_refused_before_they_fill_the_memory(made: Callable[[], bytes]) -> None:
    body = made()
    tracemalloc.start()
    try:
        assert refused(body).too_large or b"[0,1,2" in body
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


MEGABYTES = 17 * 2**20
LARGE: dict[str, Callable[[], dict[str, Any]]] = {
    "a label": lambda: {"labels": {"service": "shop", "long": "x" * MEGABYTES}},
    "the name of a label": lambda: {"labels": {"service": "shop", "x" * MEGABYTES: "long"}},
    "a label of no characters": lambda: {"labels": {"service": "shop", "long": "\ud800\0" * (MEGABYTES // 64)}},
    "many labels": lambda: {"labels": {f"l{number}": "x" for number in range(100_000)}},
    "many long labels": lambda: {"labels": {f"l{number}": "x" * 4000 for number in range(20)}},
    "an annotation": lambda: {"annotations": {"long": "x" * MEGABYTES}},
    "an address": lambda: {"generatorURL": "x" * MEGABYTES},
    "a fingerprint": lambda: {"fingerprint": "x" * MEGABYTES},
    "a status": lambda: {"status": "x" * MEGABYTES},
    "a time": lambda: {"startsAt": "1" * MEGABYTES},
}
"""What an alert may have that is too large, made when it is tried: all workers collect all tests."""


@pytest.mark.parametrize("part", LARGE)
def test_an_alert_that_is_too_large_never_costs_the_others(part: str) -> None:
    large = LARGE[part]()
    body = with_alert()
    good = body["alerts"][0]
    body["alerts"] = [good, {**good, **large}, good]
    began = time.thread_time()
    webhook = parse(body)
    assert time.thread_time() - began < 2
    if webhook.damaged:
        assert [alert.fingerprint for alert in webhook.alerts] == [good["fingerprint"]] * 2
        assert len(webhook.damaged[0]) < 500
    assert all(len(text) < 2 * LONGEST_TEXT for one in webhook.alerts for text in (*one.labels.values(), one.url))
    body["alerts"] = [{**good, **large}]
    if webhook.damaged:
        refused(json.dumps(body).encode())


def assert_too_large(body: dict[str, Any]) -> None:
    assert refused(json.dumps(body).encode()).too_large


@given(st.dictionaries(st.text(max_size=8), st.integers(0, 3 * LONGEST_TEXT), max_size=14), st.booleans())
def test_whatever_is_taken_is_small_and_what_is_cut_says_so(lengths: dict[str, int], annotations: bool) -> None:
    texts = {name: "x" * length for name, length in lengths.items()}
    body = with_alert(**{"annotations" if annotations else "labels": texts})
    if sum(min(length, LONGEST_TEXT) for length in lengths.values()) > 2**16:
        assert_too_large(body)
        return
    (alert,) = parse(body).alerts
    for name, text in (alert.annotations if annotations else alert.labels).items():
        length = lengths.get(name)
        if length is not None:
            assert text == texts[name] if length <= LONGEST_TEXT else text.endswith(f"… ({length} characters)")


def test_a_receiver_and_a_group_of_any_length_are_read_at_once() -> None:
    began = time.thread_time()
    webhook = parse({**with_alert(), "receiver": "\\" * MEGABYTES, "groupKey": "x" * MEGABYTES})
    assert time.thread_time() - began < 2
    assert len(webhook.receiver) + len(webhook.group_key) < 3000


def test_large_labels_have_a_fingerprint_at_once() -> None:
    began = time.thread_time()
    names = {fingerprint_of({"a": "x" * (MEGABYTES + number)}) for number in range(3)}
    assert time.thread_time() - began < 1
    assert {len(name) for name in names} == {16}
    assert len(names) == 3
