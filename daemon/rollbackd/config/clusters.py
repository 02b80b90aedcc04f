"""The clusters of a file that need not be whole yet, and what it has of services already."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ValidationError

from rollbackd.config import files
from rollbackd.config.explain import faults_of
from rollbackd.config.models import Name
from rollbackd.config.positions import ConfigFault, entries, mapping
from rollbackd.syntax.clusters import ClusterSettings, each_once


class ConfiguredClusters(NamedTuple):
    """What `rollbackd discover` needs of a file."""

    clusters: Mapping[str, ClusterSettings]
    services: Sequence[str]
    """Names of services, as they are written."""
    layers: Sequence[Mapping[str, object]]
    """The settings of all their layers, as they are written."""


class _File(BaseModel):
    """The one section; all others are left to `rollbackd check`."""

    clusters: Annotated[dict[Name, ClusterSettings], AfterValidator(each_once)] = {}


def read_clusters(path: Path) -> ConfiguredClusters | Sequence[ConfigFault]:
    """The clusters of a file, or what is wrong with them."""
    document = files.read(path).document
    if document.faults:
        return document.faults
    data = mapping(document.data)
    try:
        read = _File.model_validate(data)
    except ValidationError as error:
        return list(faults_of(error, _File, document))
    services = [raw for _, raw in entries(data.get("services"), ("services",))]
    layers = [mapping(layer) for raw in services for layer in mapping(raw.get("layers")).values()]
    return ConfiguredClusters(read.clusters, [str(raw.get("name")) for raw in services], layers)
