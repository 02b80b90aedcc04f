"""Which service labels belong to."""

from collections.abc import Mapping

import pytest

from rollbackd.rules.matching import ServiceIndex

SERVICES: list[tuple[str, Mapping[str, str]]] = [
    ("shop", {"team": "shop"}),
    ("checkout", {"service": "checkout", "env": "prod"}),
    ("canary", {"service": "checkout", "env": "prod", "track": "canary"}),
    ("checkout", {"job": "checkout-cron"}),
    ("search", {"service": "search", "env": "prod"}),
]


@pytest.mark.parametrize(
    ("labels", "service"),
    [
        ({"service": "checkout", "env": "prod"}, "checkout"),
        ({"service": "checkout", "env": "prod", "pod": "a-1"}, "checkout"),
        ({"service": "checkout", "env": "prod", "track": "canary"}, "canary"),
        ({"service": "checkout", "env": "prod", "team": "shop"}, "checkout"),
        ({"service": "checkout", "env": "prod", "track": "stable"}, "checkout"),
        ({"service": "checkout", "env": "test", "team": "shop"}, "shop"),
        ({"job": "checkout-cron"}, "checkout"),
        ({"service": "search", "env": "prod"}, "search"),
        ({"service": "checkout"}, None),
        ({"service": "checkout", "env": ""}, None),
        ({}, None),
    ],
)
def test_the_most_specific_service_whose_match_fits_wins(labels: Mapping[str, str], service: str | None) -> None:
    assert ServiceIndex(SERVICES).find(labels) == service


def test_the_order_of_the_services_does_not_matter() -> None:
    labels = {"service": "checkout", "env": "prod", "track": "canary", "team": "shop"}
    assert ServiceIndex(reversed(SERVICES)).find(labels) == "canary"


def test_with_no_services_nothing_is_found() -> None:
    assert ServiceIndex([]).find({"service": "checkout"}) is None
