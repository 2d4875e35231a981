"""The controller's own settings: one TOML file, the first one found."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from mudanza.cli.availability_settings import Availability, FencingSettings
from mudanza.cli.places import candidates, default_database, default_socket
from mudanza.cli.setting_types import Rate, Seconds, listed, seconds
from mudanza.model.access import Provider, Scope
from mudanza.model.errors import UsageError
from mudanza.model.hook import HOOK_NAME, Hook, When
from mudanza.model.metrics import Server
from mudanza.model.migration import GuestClock
from mudanza.model.notice import Kind, Webhook

if TYPE_CHECKING:
    from mudanza.planning.saving.terms import Terms


class Limits(BaseModel):
    """How long we wait for what. Written as seconds, or as text such as "90s" and "10m"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connect: Seconds = 10.0
    """A host to accept our connection."""
    read: Seconds = 20.0
    """A host to tell everything about itself."""
    no_progress: Seconds = 300.0
    """A transfer that comes no nearer to its end, before it is cancelled."""
    settle: Seconds = 90.0
    """Both hosts to agree about where the VM is, after the transfer."""
    postcopy_recovery: Seconds = 3600.0
    """An interrupted post-copy to be resumed, before its job is left to a person."""
    shutdown: Seconds = 180.0
    """A guest to shut down when asked to."""


class History(BaseModel):
    """How long the journal remembers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep: Annotated[float, BeforeValidator(seconds), Field(ge=0)] = 90 * 86400.0
    """Jobs that have ended and left nothing; 0: for ever."""


class MetricsSettings(BaseModel):
    """What is asked of a Prometheus server. Queries are PromQL; ``$range`` stands for the span that rates are over."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timeout: Seconds = 20.0
    """All queries together, before our own readings are gone by."""
    token_file: Annotated[str, Field(pattern="^(/.*)?$")] = ""
    """A file with a bearer token; empty: none is sent."""
    vm_label: str = "domain"
    """The label that has a VM's name or UUID."""
    host_label: str = "instance"
    """The label that has a host's name or address; a port is left out."""
    vm_cpus: str = "sum by (domain) (rate(libvirt_domain_info_cpu_time_seconds_total[$range]))"
    """CPU-seconds per second; likewise host_cpus."""
    vm_memory: str = "max by (domain) (libvirt_domain_memory_stats_rss_bytes)"
    """Bytes; likewise host_memory."""
    vm_disk: str = (
        "sum by (domain) (rate(libvirt_domain_block_stats_read_bytes_total[$range])"
        " + rate(libvirt_domain_block_stats_write_bytes_total[$range]))"
    )
    """Bytes per second; likewise the three below."""
    vm_network: str = (
        "sum by (domain) (rate(libvirt_domain_interface_stats_receive_bytes_total[$range])"
        " + rate(libvirt_domain_interface_stats_transmit_bytes_total[$range]))"
    )
    host_cpus: str = 'sum by (instance) (rate(node_cpu_seconds_total{mode!~"idle|iowait|steal|guest.*"}[$range]))'
    host_memory: str = "node_memory_MemTotal_bytes - node_memory_MemAvailable_bytes"
    host_disk: str = (
        'sum by (instance) (rate(node_disk_read_bytes_total{device!~"dm-.*|md.*|loop.*"}[$range])'
        ' + rate(node_disk_written_bytes_total{device!~"dm-.*|md.*|loop.*"}[$range]))'
    )
    host_network: str = (
        "sum by (instance) "
        '(rate(node_network_receive_bytes_total{device!~"lo|vnet.*|tap.*|veth.*|br.*|virbr.*|bond.*"}[$range])'
        ' + rate(node_network_transmit_bytes_total{device!~"lo|vnet.*|tap.*|veth.*|br.*|virbr.*|bond.*"}[$range]))'
    )


class Load(BaseModel):
    """How busy hosts and VMs are: how often one looks, and how long that is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: Seconds = 30.0
    """Between two looks at all hosts."""
    keep: Seconds = 2 * 86400.0
    """Readings; older ones are removed."""
    fine: Seconds = 2 * 3600.0
    """Readings one by one; older ones are folded into one for five minutes, and after twelve times that for an hour."""
    window: Seconds = 3600.0
    """What is looked back upon where nothing else is said."""
    prometheus: Annotated[str, Field(pattern=r"^(https?://[^@\s]+)?$")] = ""
    """A Prometheus server that is asked instead of our own readings; empty: none. Passwords do not belong here."""
    metrics: MetricsSettings = MetricsSettings()

    def server(self) -> Server:
        """Return the server as those know it who ask it."""
        told = self.metrics.model_dump()
        queries = {name: told[name] for name in told if name.startswith(("vm_", "host_")) and "label" not in name}
        labels = {"vm": self.metrics.vm_label, "host": self.metrics.host_label}
        return Server(self.prometheus, queries, labels, self.metrics.timeout, self.metrics.token_file)


class Balance(BaseModel):
    """Balance that goes on; what it goes by is in the rules of the cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: Seconds = 300.0
    """Between two rounds."""


class Forecasting(BaseModel):
    """What forecasts may take, and what they cannot know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wait: Annotated[float, BeforeValidator(seconds), Field(ge=0)] = 1.5
    """The most that measuring may hold up a move beyond its check; 0: not at all."""
    link: Rate | None = None
    """What links carry over which no move has gone yet: bytes per second, or text such as "1gbit"."""


class HookSettings(BaseModel):
    """A command that is run on this machine around moves: without a shell, for VMs that name it or for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: Annotated[list[str], Field(min_length=1)]
    """The program by its whole path, and its arguments."""
    when: Annotated[list[When], BeforeValidator(listed), Field(min_length=1)]
    """At which moments of a move."""
    timeout: Annotated[Seconds, Field(le=3600.0)] = 60.0
    """How long it may take."""
    for_all: bool = False
    """For every VM, and not only for those that name it."""

    @field_validator("command")
    @classmethod
    def _whole_path(cls, command: list[str]) -> list[str]:
        if not command[0].startswith("/"):
            raise ValueError(f"write the whole path of {command[0]}, such as /usr/local/bin/{command[0]}")
        if any("\0" in word for word in command):
            raise ValueError("no program takes a NUL")
        return command

    def as_hook(self, name: str) -> Hook:
        """Return it as movers know it."""
        return Hook(name, tuple(self.command), frozenset(self.when), self.timeout, self.for_all)


class GuestSettings(BaseModel):
    """What is done for guests by their agents."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clock: GuestClock = GuestClock.SET
    """Whether a guest's agent sets its clock forward after a live move."""


class Service(BaseModel):
    """What `mudanza serve` does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    socket: str = ""
    """Where it answers; empty: see `default_socket`."""
    listen: str = ""
    """An address, HOST:PORT, at which it answers those who have a token, by TLS; empty: none."""
    certificate: str = ""
    key: str = ""
    """PEM files, for `listen`."""
    refresh: Seconds = 10.0
    """Between two looks at all hosts."""
    workers: Annotated[int, Field(ge=1, le=16)] = 1
    """Processes that work on the queue, and share what --parallel allows, beside the one that answers."""


_ISSUER = r"^(https://[^@\s?#]+|http://(localhost|127\.0\.0\.1)(:\d+)?(/[^@\s?#]*)?)?$"
"""By TLS, or from this very machine."""


class OidcSettings(BaseModel):
    """Who lets people into the dashboard besides their tokens: an OpenID Connect provider."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: Annotated[str, Field(pattern=_ISSUER)] = ""
    """Its URL; empty: there is none."""
    client_id: str = ""
    """What it knows us by."""
    client_secret_file: Annotated[str, Field(pattern="^(/.+)?$")] = ""
    """A file with what we show it; empty: nothing, it goes by PKCE alone."""
    name_claim: str = "preferred_username"
    groups_claim: str = "groups"
    """What of its word are somebody's name, and their groups."""
    ask: list[str] = ["profile"]
    """What it is asked for besides `openid`: some tell groups only if asked for `groups`."""
    scopes: dict[str, list[Scope]] = {}
    """By group, what those in it may."""

    def as_provider(self) -> Provider | None:
        """Return it as those know it who let people in; None: there is none. Raises UsageError for half of one."""
        if not self.issuer:
            return None
        if not (self.client_id and self.scopes):
            raise UsageError("oidc.issuer takes oidc.client_id, and oidc.scopes, for else nobody would be let in")
        scopes = {group: frozenset(each) for group, each in self.scopes.items()}
        names = (self.client_secret_file, self.name_claim, self.groups_claim)
        return Provider(self.issuer, self.client_id, scopes, *names, ask=tuple(self.ask))


class WebhookSettings(BaseModel):
    """Somebody who is told of what happens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(pattern=r"^https?://[^@\s]+$")]
    """Where it listens. Passwords do not belong here."""
    secret_file: Annotated[str, Field(pattern="^/.+$")]
    """A file with the key that messages are signed with."""
    events: list[Kind] = []
    """What it is told of; empty: everything."""
    timeout: Annotated[Seconds, Field(le=60.0)] = 10.0
    """How long it may take to answer."""

    def as_webhook(self, name: str) -> Webhook:
        """Return it as those know it who tell it."""
        return Webhook(name, self.url, self.secret_file, frozenset(kind.value for kind in self.events), self.timeout)


class Notify(BaseModel):
    """Whom the daemon tells of what happens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host_down: Annotated[float, BeforeValidator(seconds), Field(ge=0)] = 60.0
    """How long a host may be silent before that is told."""
    webhooks: dict[Annotated[str, Field(pattern=f"^{HOOK_NAME.pattern}$")], WebhookSettings] = {}
    """By name."""

    def known(self) -> tuple[Webhook, ...]:
        """Return the webhooks there are."""
        return tuple(told.as_webhook(name) for name, told in self.webhooks.items())


RELIEF = 0.95
"""The share of its CPUs from which on a host is too busy: more than all of them nobody measures."""


class PowerSettings(BaseModel):
    """What power costs, and how hosts are switched off and on to save it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    price: Annotated[float, Field(ge=0)] = 0.0
    """Of a kilowatt-hour; 0: nobody has said."""
    currency: Annotated[str, Field(max_length=8)] = "EUR"
    """The money that it is in."""
    shutdown: Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\r\n]+$")] = "systemctl poweroff"
    """What a host's shell is told, by ssh, to shut its system down."""
    off: Annotated[Seconds, Field(le=3600.0)] = 300.0
    """A host to shut down, until a fence device sees it off."""
    boot: Annotated[Seconds, Field(le=3600.0)] = 900.0
    """A host to start, until it is well."""
    saving: Literal["off", "advise", "manual", "auto"] = "off"
    """How far the daemon goes by itself: not at all; it is said; a plan waits for a yes; it is done."""
    every: Seconds = 300.0
    """Between two rounds."""
    ceiling: Annotated[float, Field(gt=0, le=1)] = 0.8
    """The share of their CPUs up to which hosts are filled, by what was used at the same time."""
    reserve: Annotated[int, Field(ge=0, le=1000)] = 1
    """So many of the largest hosts that are on could fail."""
    least_on: Seconds = 1800.0
    """A host stays on once it was woken."""
    least_off: Seconds = 1800.0
    """A host stays off once it was switched off, unless VMs need it."""

    def terms(self) -> Terms:
        """Return how careful saving is. Raises UsageError."""
        from mudanza.planning.saving.terms import Terms

        return Terms(
            ceiling=self.ceiling,
            relief=max(RELIEF, self.ceiling),
            relieved=max(RELIEF, self.ceiling),
            least_on=self.least_on,
            least_off=self.least_off,
            reserve=self.reserve,
        )


class RecoverySettings(BaseModel):
    """How plans for recovery are carried out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_once: Annotated[int, Field(ge=1, le=64)] = 6
    """VMs of one group that are brought up side by side at the most, where a plan says nothing else."""
    at_once_per_host: Annotated[int, Field(ge=1, le=64)] = 3
    """The same at one host."""


class Settings(BaseModel):
    """Everything the TOML file may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database: str = ""
    """Path of an SQLite file, or postgresql://…; empty: see `default_database`."""
    limits: Limits = Limits()
    history: History = History()
    forecast: Forecasting = Forecasting()
    guest: GuestSettings = GuestSettings()
    hooks: dict[Annotated[str, Field(pattern=f"^{HOOK_NAME.pattern}$")], HookSettings] = {}
    """By name."""
    load: Load = Load()
    balance: Balance = Balance()
    service: Service = Service()
    oidc: OidcSettings = OidcSettings()
    notify: Notify = Notify()
    fencing: FencingSettings = FencingSettings()
    availability: Availability = Availability()
    power: PowerSettings = PowerSettings()
    recovery: RecoverySettings = RecoverySettings()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings and where they come from; ``path`` None: nothing but defaults."""

    settings: Settings
    path: Path | None


def load_settings(named: Path | None = None, env: Mapping[str, str] = os.environ) -> Loaded:
    """Read the settings from ``named``, $MUDANZA_CONFIG or the usual places.

    Raises UsageError, naming file and setting, when the file cannot be read or says something unknown.
    """
    chosen = named or (Path(env["MUDANZA_CONFIG"]) if env.get("MUDANZA_CONFIG") else None)
    if chosen is None:
        chosen = next((path for path in candidates(env) if path.is_file()), None)
    settings = _read(chosen) if chosen else Settings()
    if not settings.database:
        database = default_database(env, root=os.geteuid() == 0)
        settings = settings.model_copy(update={"database": database})
    if not settings.service.socket:
        service = settings.service.model_copy(update={"socket": default_socket(env, root=os.geteuid() == 0)})
        settings = settings.model_copy(update={"service": service})
    return Loaded(settings, chosen)


def _read(path: Path) -> Settings:
    try:
        return Settings.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise UsageError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration {path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the configuration {path} is wrong at {where}: {first['msg']}") from error
