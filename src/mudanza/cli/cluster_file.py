"""The cluster as a TOML file, for those who keep it in git."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from mudanza.model.errors import UsageError
from mudanza.model.host import HostEntry


class HostSettings(BaseModel):
    """One host in a cluster file."""

    model_config = ConfigDict(extra="forbid")

    uri: str
    peer_uri: str | None = None
    migration_address: str | None = None
    tls_name: str | None = None
    maintenance: bool = False
    tags: tuple[str, ...] = ()


class ClusterFile(BaseModel):
    """What `export` prints and `import` reads."""

    model_config = ConfigDict(extra="forbid")

    hosts: dict[str, HostSettings] = {}


def write_cluster(entries: Iterable[HostEntry]) -> str:
    """Return hosts as TOML; what is as usual is left out."""
    hosts = {
        entry.name: HostSettings.model_validate(entry, from_attributes=True).model_dump(exclude_defaults=True)
        for entry in entries
    }
    return tomli_w.dumps({"hosts": hosts})


def read_cluster_file(text: str) -> list[HostEntry]:
    """Return the hosts a TOML text names. Raises UsageError naming what is wrong in it."""
    try:
        cluster = ClusterFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the file is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the file is wrong at {where}: {first['msg']}") from error
    return [HostEntry(name, **settings.model_dump()) for name, settings in cluster.hosts.items()]
