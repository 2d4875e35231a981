"""A virtual machine host as seen at one instant."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HostEntry:
    """What the operator told us about a host; kept in the cluster database."""

    name: str
    uri: str
    """How the controller reaches it: any libvirt URI."""
    peer_uri: str | None = None
    """How the other hosts reach it; None: the same URI without what only the controller has."""
    migration_address: str | None = None
    """The address or name that memory and disks travel to; None: libvirt's choice (its host name)."""
    tls_name: str | None = None
    """The name in the host's certificate, where it differs from the address used."""
    maintenance: bool = False
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pool:
    """A storage pool. Bytes."""

    name: str
    kind: str
    """``dir``, ``fs``, ``netfs``, ``logical``, ``rbd``…"""
    path: str | None
    active: bool
    capacity: int
    available: int


@dataclass(frozen=True, slots=True)
class Network:
    """A libvirt network."""

    name: str
    active: bool
    forward: str | None
    """``nat``, ``route``, ``bridge``…; None: isolated."""
    bridge: str | None
    portgroups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HugePages:
    """Huge pages of one size. ``size`` in bytes."""

    size: int
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class NumaNode:
    """The memory that lies at one of a host's NUMA nodes. Bytes."""

    number: int
    memory_total: int
    memory_free: int
    """What nobody uses. Caches, which the kernel gives up when it needs to, are told of the whole host only."""
    hugepages: tuple[HugePages, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """One host and what it can do. Memory in bytes.

    ``error`` is set when the host could not be read; then every figure is empty and nothing may be concluded
    from it: not seen is not the same as not there.
    """

    entry: HostEntry
    error: str | None = None
    hostname: str = ""
    host_uuid: str = ""
    arch: str = ""
    cpus: int = 0
    cpu_model: str = ""
    cpu_vendor: str = ""
    cpu_features: frozenset[str] = frozenset()
    cpu_xml: str = field(default="", repr=False)
    memory_total: int = 0
    memory_free: int = 0
    """Memory a new guest could take now: free plus reclaimable caches."""
    libvirt_version: int = 0
    """major * 1,000,000 + minor * 1,000 + release, libvirt's way."""
    qemu_version: int = 0
    daemon: str = ""
    """``libvirtd`` or ``virtqemud`` where it can be told, else empty."""
    encrypted: bool = False
    """Whether the controller's connection is encrypted."""
    domain_types: frozenset[str] = frozenset()
    """``kvm``, ``qemu``."""
    machines: frozenset[str] = frozenset()
    """Machine types and their aliases, of the host's own architecture."""
    pools: tuple[Pool, ...] | None = ()
    """None where the host's storage driver could not be asked."""
    networks: tuple[Network, ...] | None = ()
    interfaces: frozenset[str] | None = frozenset()
    """Network interfaces and bridges by name; None where the host cannot tell."""
    hugepages: tuple[HugePages, ...] = ()
    cpu_count_by_node: tuple[int, ...] = ()
    nodes: tuple[NumaNode, ...] = ()
    """Its NUMA nodes; empty where they could not be read."""
    nwfilters: frozenset[str] | None = frozenset()
    secrets: frozenset[str] | None = frozenset()
    """UUIDs and usages of libvirt secrets that have a value."""
    security_models: frozenset[str] = frozenset()
    """``dac``, ``apparmor``, ``selinux`` as far as QEMU guests are confined by them."""
    qemu_owner: tuple[int, int] | None = None
    """User and group QEMU runs as."""
    tpm_backends: frozenset[str] = frozenset()
    firmware_loaders: frozenset[str] = frozenset()
    migration_transports: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The name the operator gave it."""
        return self.entry.name

    @property
    def seen(self) -> bool:
        """Whether it answered."""
        return self.error is None

    def pool(self, name: str) -> Pool | None:
        """Return the pool of that name, None if there is none or pools are unknown."""
        return next((pool for pool in self.pools or () if pool.name == name), None)

    def pool_at(self, path: str) -> Pool | None:
        """Return the active pool whose target directory is exactly ``path``."""
        wanted = path.rstrip("/")
        return next((p for p in self.pools or () if p.active and p.path and p.path.rstrip("/") == wanted), None)

    def network(self, name: str) -> Network | None:
        """Return the libvirt network of that name."""
        return next((network for network in self.networks or () if network.name == name), None)
