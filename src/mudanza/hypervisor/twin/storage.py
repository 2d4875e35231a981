"""Pools, volumes and streams, as libvirt-python shows them."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Any

import libvirt
from lxml import etree

from mudanza.hypervisor.twin import errors
from mudanza.hypervisor.twin.domain import Pool
from mudanza.hypervisor.twin.files import File
from mudanza.hypervisor.twin.host import TwinHost
from mudanza.hypervisor.twin.line import Line
from mudanza.model.units import MIB

QCOW2_SIZE = 196_616
"""Bytes of an empty image of that format. Measured."""
_PIECE = 256 * 1024
_UNITS = {"bytes": 1, "b": 1, "KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB}


class PoolHandle:
    """As virStoragePool."""

    def __init__(self, line: Line, pool: Pool) -> None:
        self._line = line
        self._pool = pool

    def name(self) -> str:
        return self._pool.name

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802 - libvirt's name
        return self._line.ask("pool XML", self._xml)

    def _xml(self) -> str:
        pool, system = self._pool, self._line.host.system_of(self._pool.path)
        return f"""<pool type='dir'><name>{pool.name}</name><uuid>{pool.uuid}</uuid>
  <capacity unit='bytes'>{system.capacity}</capacity>
  <allocation unit='bytes'>{system.capacity - system.available}</allocation>
  <available unit='bytes'>{system.available}</available><source></source>
  <target><path>{pool.path}</path><permissions><mode>0755</mode><owner>0</owner><group>0</group></permissions></target>
</pool>"""

    def info(self) -> list[int]:
        system = self._line.host.system_of(self._pool.path)
        used = system.capacity - system.available
        return self._line.ask("pool info", lambda: [2, system.capacity, used, system.available])

    def listVolumes(self) -> list[str]:  # noqa: N802
        return self._line.ask("list volumes", lambda: list(self._active().seen))

    def refresh(self, _flags: int = 0) -> int:
        return int(self._line.order("refresh", self._refresh))

    def _refresh(self) -> int:
        pool, host = self._active(), self._line.host
        if self._line.twin.scheduler.now < pool.busy_until:
            words = f"internal error: pool '{pool.name}' has asynchronous jobs running."
            raise errors.refusal(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_STORAGE, words)
        pool.seen = {name: self._at(name).format for name in host.system_of(pool.path).names_in(pool.path)}
        return 0

    def _at(self, name: str) -> File:
        file = self._line.host.file(posixpath.join(self._pool.path, name))
        if file is None:
            raise errors.no_volume("name", name)
        return file

    def storageVolLookupByName(self, name: str) -> VolumeHandle:  # noqa: N802
        def look() -> VolumeHandle:
            if name not in self._active().seen:
                raise errors.no_volume("name", name)
            return VolumeHandle(self._line, self._pool, name)

        return self._line.ask("look up volume", look)

    def createXML(self, xml: str, _flags: int = 0) -> VolumeHandle:  # noqa: N802
        root = etree.fromstring(xml)
        name = root.findtext("name") or ""
        self._line.order("create volume", lambda: self._create(root), name)
        return VolumeHandle(self._line, self._pool, name)

    def _create(self, root: etree._Element) -> None:
        pool, host = self._active(), self._line.host
        name, size = root.findtext("name") or "", _size(root.find("capacity"))
        path, system = posixpath.join(pool.path, name), host.system_of(pool.path)
        if name in pool.seen or path in system.files:
            raise errors.volume_exists(name)
        wanted = size if root.find("allocation") is None else _size(root.find("allocation"))
        kind = root.find("target/format")
        is_qcow2 = kind is not None and kind.get("type") == "qcow2"
        if wanted > system.available or (is_qcow2 and not system.available):
            raise errors.full(path)
        now = self._line.twin.scheduler.time()
        mode = int(root.findtext("target/permissions/mode") or "0600", 8)
        file = File(QCOW2_SIZE if is_qcow2 else size, now, mode)
        if is_qcow2:
            file.make_qcow2(size, root.findtext("backingStore/path") or "", now)
        system.files[path] = file
        pool.seen[name] = "qcow2" if is_qcow2 else "raw"

    def destroy(self) -> int:
        def end() -> int:
            self._active().active = False
            if not self._pool.persistent:
                self._line.host.pools.pop(self._pool.name, None)
            return 0

        return int(self._line.order("end pool", end))

    def _active(self) -> Pool:
        found = self._line.host.pools.get(self._pool.name)
        if found is None:
            raise errors.no_pool(self._pool.name)
        if not found.active:
            raise errors.invalid(f"storage pool '{found.name}' is not active")
        return found


class VolumeHandle:
    """As virStorageVol."""

    def __init__(self, line: Line, pool: Pool, name: str) -> None:
        self._line = line
        self._pool = pool
        self._name = name
        self._path = posixpath.join(pool.path, name)

    def name(self) -> str:
        return self._name

    def path(self) -> str:
        return self._path

    def storagePoolLookupByVolume(self) -> PoolHandle:  # noqa: N802
        return PoolHandle(self._line, self._pool)

    def _file(self) -> File:
        file = self._line.host.file(self._path)
        if file is None or self._name not in self._pool.seen:
            raise errors.no_volume("name", self._name)
        return file

    def _capacity(self, file: File) -> int:
        return file.virtual_size if self._pool.seen[self._name] == "qcow2" else file.size

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
        return self._line.ask("volume XML", self._xml)

    def _xml(self) -> str:
        file = self._file()
        at = f"{file.changed_at:.9f}"
        below = self._line.host.chain(self._path)[:1] if self._pool.seen[self._name] == "qcow2" else []
        backing = "".join(
            f"<backingStore><path>{path}</path><format type='{kind}'/></backingStore>" for path, kind in below
        )
        return f"""<volume type='file'><name>{self._name}</name><key>{self._path}</key>
  <capacity unit='bytes'>{self._capacity(file)}</capacity><allocation unit='bytes'>{file.allocated}</allocation>
  <physical unit='bytes'>{file.size}</physical>
  <target><path>{self._path}</path><format type='{self._pool.seen[self._name]}'/>
    <permissions><mode>{file.mode:04o}</mode><owner>0</owner><group>0</group></permissions>
    <timestamps><atime>{at}</atime><mtime>{at}</mtime><ctime>{at}</ctime><btime>0</btime></timestamps></target>
  {backing}</volume>"""

    def info(self) -> list[int]:
        def look() -> list[int]:
            file = self._file()
            return [0, self._capacity(file), file.allocated]

        return self._line.ask("volume info", look)

    def delete(self, _flags: int = 0) -> int:
        def delete() -> int:
            self._file()
            host = self._line.host
            self._line.twin.note(f"deletes {self._path} on {host.name}")
            host.system_of(self._path).files.pop(self._path)
            self._pool.seen.pop(self._name)
            return 0

        return int(self._line.order("delete volume", delete, self._name))

    def resize(self, size: int, _flags: int = 0) -> int:
        def resize() -> int:
            file = self._file()
            if file.format == "qcow2":
                file.make_qcow2(size, file.backing, self._line.twin.scheduler.time())
            else:
                file.size = size
            return 0

        return int(self._line.order("resize volume", resize, self._name))

    def download(self, stream: StreamHandle, offset: int, length: int, _flags: int = 0) -> int:
        return self._line.ask("download", lambda: stream.open(self._file(), offset, offset + length))

    def upload(self, stream: StreamHandle, offset: int, length: int, _flags: int = 0) -> int:
        return self._line.ask("upload", lambda: stream.open(self._file(), offset, offset + length))


class StreamHandle:
    """As virStream: one direction, one file."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._file: File | None = None
        self._at = self._end = 0

    def open(self, file: File, start: int, end: int) -> int:
        """Begin at a place of a file."""
        self._file, self._at, self._end = file, start, min(end, max(file.size, start))
        return 0

    def recvFlags(self, size: int, _flags: int = 0) -> Any:  # noqa: N802
        return self._line.ask("receive", lambda: self._receive(size))

    def _receive(self, size: int) -> Any:
        if self._file is None:
            raise errors.failed("stream is not open")
        run = next(self._file.runs(self._at, self._end), None)
        if run is None:
            return b""
        is_hole, length = run
        if is_hole:
            return -3
        data = self._file.read(self._at, min(size, length))
        self._at += len(data)
        return data

    def recvHole(self, _flags: int = 0) -> int:  # noqa: N802
        if self._file is None:
            raise errors.failed("stream is not open")
        _, length = next(self._file.runs(self._at, self._end))
        self._at += length
        return length

    def sendAll(self, handler: Callable[[Any, int, Any], bytes], opaque: Any) -> None:  # noqa: N802
        while data := handler(self, _PIECE, opaque):
            self._line.order("send", lambda data=data: self._take(data))  # type: ignore[misc]  # it is bound here

    def _take(self, data: bytes) -> None:
        if self._file is None:
            raise errors.failed("stream is not open")
        self._file.write(self._at, data, self._line.twin.scheduler.time())
        self._at += len(data)

    def finish(self) -> int:
        return self._line.ask("finish stream", self._close)

    def abort(self) -> int:
        return self._line.ask("abort stream", self._close)

    def _close(self) -> int:
        self._file = None
        return 0


def _size(element: etree._Element | None) -> int:
    return 0 if element is None else int(element.text or "0") * _UNITS[element.get("unit", "bytes")]


def put_pool(host: TwinHost, xml: str) -> Pool:
    """Put a transient pool on a directory. Raises libvirtError where another one has it."""
    root = etree.fromstring(xml)
    name, path = root.findtext("name") or "", root.findtext("target/path") or ""
    other = host.pool_at(path)
    if other is not None:
        raise errors.refusal(
            libvirt.VIR_ERR_OPERATION_FAILED,
            libvirt.VIR_FROM_STORAGE,
            f"operation failed: Storage source conflict with pool: '{other.name}'",
        )
    pool = host.pools[name] = Pool(name, path, name, persistent=False)
    pool.seen = {
        each: file.format
        for each in host.system_of(path).names_in(path)
        if (file := host.file(posixpath.join(path, each))) is not None
    }
    return pool
