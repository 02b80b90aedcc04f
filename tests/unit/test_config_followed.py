"""Services that follow a cluster: what a template makes of what was found, and what one look changes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.config.followed import FollowedService, found_in, kept, looked
from rollbackd.config.load import ConfigErrors, Loaded, digest, load

FILE = """daemon: {mode: act, open_on_loopback: true, scratch: SCRATCH}
clusters:
  prod: {kubeconfig: /etc/rollbackd/kubeconfig, context: prod, uid: 0b8f3c52-7e0f-4c1c-9a55-3d3f5d1c2a10}
services_from:
  - cluster: prod
    namespaces: [shop, pay]
    label: example.com/service
    act: [web]
    template:
      match: {service: "{name}", namespace: "{namespace}"}
      layers:
        code: {adapter: kubernetes, cluster: prod, namespace: "{namespace}", workload: "{workload}"}
      verify: {checks: [{http: http://shop.example/}]}
"""


MISPLACED = (
    "{}: a name from the cluster may stand only in `match`, and in `namespace` and `workload` of layers; take it out"
)


def follows(name: str, namespace: str = "shop", **more: Any) -> FollowedService:
    known = {"cluster": "prod", "label": "example.com/service", "workload": f"deployment/{name}"}
    return FollowedService(name=name, namespace=namespace, **{**known, **more})


def loaded(path: Path, *found: FollowedService, text: str = FILE) -> Loaded:
    (path / "config.yaml").write_text(text.replace("SCRATCH", str(path)))
    name, body = kept(found)
    (path / name).write_bytes(body)
    return load(path / "config.yaml", look_for=None)


def modes(of: Loaded) -> dict[str, str]:
    return {service.name: of.config.mode(service) for service in of.config.services}


# -- templates ----------------------------------------------------------------------------------
def test_each_workload_is_a_service_of_the_template(tmp_path: Path) -> None:
    config = loaded(tmp_path, follows("web"), follows("queue", "pay", workload="statefulset/q")).config
    web, queue = config.services
    assert (web.name, web.match) == ("web", ({"service": "web", "namespace": "shop"},))
    layer = queue.layers["code"].model_dump()
    assert (queue.name, layer["namespace"], layer["workload"]) == ("queue", "pay", "statefulset/q")
    assert list(queue.plans) == ["default"]


def test_new_ones_are_in_shadow_mode_and_those_that_are_gone_are_not_watched(tmp_path: Path) -> None:
    assert modes(loaded(tmp_path, follows("web"), follows("queue"))) == {"web": "act", "queue": "shadow"}
    assert modes(loaded(tmp_path, follows("web", gone=1.0), follows("queue"))) == {"queue": "shadow"}


def test_what_comes_and_goes_is_named_by_nothing_else_in_the_file(tmp_path: Path) -> None:
    rule = "rules: [{name: sick, services: web, when: {alert: 'alertname=\"Sick\"'}}]\n"
    for found in ([], [follows("web")]):
        with pytest.raises(ConfigErrors, match='unknown service "web"'):
            loaded(tmp_path, *found, text=FILE + rule)


def test_before_anybody_looked_there_are_none_and_the_template_is_judged_all_the_same(tmp_path: Path) -> None:
    assert modes(loaded(tmp_path)) == {}
    with pytest.raises(ConfigErrors) as refused:
        loaded(tmp_path, text=FILE.replace("verify: {checks", "verify: {cheks"))
    assert f'{tmp_path}/config.yaml:13:16: unknown key "cheks"; did you mean "checks"?' in str(refused.value)


def test_those_of_other_clusters_labels_and_namespaces_are_left_out(tmp_path: Path) -> None:
    strangers = [follows("a", cluster="dev"), follows("b", label="other"), follows("c", "kube-system")]
    assert modes(loaded(tmp_path, *strangers, follows("web"))) == {"web": "act"}


def test_hosts_that_found_different_ones_have_the_same_configuration_and_with_another_template_they_have_not(
    tmp_path: Path,
) -> None:
    none = digest(loaded(tmp_path).config)
    assert digest(loaded(tmp_path, follows("web")).config) == none
    assert digest(loaded(tmp_path, text=FILE.replace("shop.example", "other.example")).config) != none


def test_a_service_that_is_written_keeps_its_name(tmp_path: Path) -> None:
    own = """services:
  - name: web
    mode: shadow
    match: {service: mine}
    layers: {code: {adapter: files, paths: [/etc/web]}}
    verify: {checks: [{tcp: "127.0.0.1:1"}]}
"""
    config = loaded(tmp_path, follows("web"), follows("queue"), text=FILE + own).config
    assert [(each.name, each.layers["code"].adapter) for each in config.services] == [
        ("web", "files"),
        ("queue", "kubernetes"),
    ]


def test_what_was_found_never_makes_a_sound_file_unsound(tmp_path: Path) -> None:
    own = """services:
  - name: shop
    match: {service: web, namespace: shop}
    layers: {code: {adapter: files, paths: [/etc/web]}}
    verify: {checks: [{tcp: "127.0.0.1:1"}]}
"""
    found = loaded(tmp_path, follows("web"), text=FILE + own)
    assert list(modes(found)) == ["shop"]
    assert any("what follows a cluster is left out: " in note for note in found.notes)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "http://shop.example/",
            '"http://{name}.example/"',
            MISPLACED.format("13:32"),
        ),
        (
            "cluster: prod, namespace",
            'cluster: prod, done_when: "{name}", namespace',
            None,
        ),
        ('service: "{name}", ', "", "10:7: `match` of the template fits every service alike; put {name} into it"),
        (
            'workload: "{workload}"',
            "workload: deployment/web",
            "10:7: no layer of the template has {workload}, so all services would move the same; put it into one",
        ),
        ("cluster: prod\n", "cluster: prodd\n", '5:5: unknown cluster "prodd"; did you mean "prod"?'),
        (
            "cluster: prod\n",
            "cluster: prod\n    adapter: files\n",
            "6:5: adapter files cannot say what there is; write kubernetes",
        ),
        ("act: [web]", "at_most: 0", "8:5: 0 does not fit; write at least 1"),
    ],
    ids=["address", "setting", "match", "workload", "cluster", "adapter", "limit"],
)
def test_what_is_wrong_is_told_at_its_place(tmp_path: Path, old: str, new: str, text: str | None) -> None:
    with pytest.raises(ConfigErrors) as refused:
        loaded(tmp_path, text=FILE.replace(old, new, 1))
    said = str(refused.value).replace(f"{tmp_path}/config.yaml:", "")
    assert said == text if text else MISPLACED.format("12:63") in said


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"services": [{"name": "a"}]}',
        json.dumps({"services": [{**follows("a").model_dump(), "name": "../x"}]}),
    ],
)
def test_a_damaged_file_of_what_was_found_counts_as_none(tmp_path: Path, damage: str) -> None:
    loaded(tmp_path, follows("web"))
    (tmp_path / "services_from.json").write_text(damage)
    assert found_in(tmp_path) == ()
    assert modes(load(tmp_path / "config.yaml", look_for=None)) == {}


@given(st.text())
def test_hostile_names_and_workloads_are_never_kept(text: str) -> None:
    for field in ("name", "namespace", "workload"):
        try:
            made = (
                follows("web", **{field: text})
                if field != "name"
                else FollowedService(**{**follows("web").model_dump(), "name": text})
            )
        except (ValueError, TypeError):
            continue
        assert not set(getattr(made, field)) - set("abcdefghijklmnopqrstuvwxyz0123456789-._/")


# -- one look -----------------------------------------------------------------------------------
def test_a_new_one_takes_part_and_is_told() -> None:
    found = looked([], [follows("web")], [], 5, 0)
    assert found.services == (follows("web"),)
    assert found.told == ("web is new as deployment/web in shop of prod, in shadow mode unless `act` names it",)


def test_nothing_new_says_nothing() -> None:
    assert looked([follows("web")], [follows("web")], [], 5, 0) == ((follows("web"),), ())


def test_one_that_is_gone_is_parked_and_told_once() -> None:
    found = looked([follows("web")], [], [], 5, 7)
    assert found.services == (follows("web", gone=7.0),)
    assert found.told == (
        "web is gone: deployment/web in shop of prod; it is parked, and not watched until it is back",
    )
    assert looked(found.services, [], [], 5, 9) == (found.services, ())


def test_one_that_is_back_is_itself_again() -> None:
    found = looked([follows("web", gone=7.0)], [follows("web")], [], 5, 9)
    assert found.services == (follows("web"),)
    assert "web is back" in found.told[0]


def test_one_that_comes_back_as_another_workload_takes_its_old_place() -> None:
    other = follows("web", workload="statefulset/web")
    found = looked([follows("web")], [other], [], 5, 9)
    assert found.services == (other,)
    assert [each.partition(":")[0].partition(" as ")[0] for each in found.told] == ["web is gone", "web is new"]


def test_two_of_one_name_are_refused_and_the_one_that_was_there_stays() -> None:
    two = [follows("web", workload="deployment/a"), follows("web", workload="deployment/b")]
    found = looked([], two, [], 5, 0)
    assert found.services == ()
    assert [each for each in found.told if "another service has that name; rename one" in each] == list(found.told)
    assert len(found.told) == 2
    assert looked(two[:1], two, [], 5, 0).services == (two[0],)


def test_a_name_that_the_file_has_is_refused() -> None:
    found = looked([], [follows("web")], ["web"], 5, 0)
    assert found.services == ()
    assert "another service has that name" in found.told[0]


def test_more_than_are_allowed_are_refused_and_those_that_were_there_stay() -> None:
    found = looked([follows("z")], [follows("a"), follows("b"), follows("z")], [], 2, 0)
    assert {each.name for each in found.services} == {"z", "a"}
    assert found.told[-1] == "b: deployment/b in shop of prod is refused, since 2 take part; raise `at_most`"


def test_what_is_gone_longest_is_forgotten_beyond_the_limit() -> None:
    known = [follows("a", gone=3.0), follows("b", gone=1.0), follows("c")]
    found = looked(known, [follows("c"), follows("d")], [], 3, 9)
    assert {each.name for each in found.services} == {"a", "c", "d"}
