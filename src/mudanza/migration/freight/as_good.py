"""Images of a chain that lie at the target already: other bytes, and yet as good to build upon.

An image that was carried to another directory names its base by another path, and so it is no longer the same byte for
byte as the one it once was a copy of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.contents.reading import Layer, is_readable
from mudanza.hypervisor.streams import read_bytes
from mudanza.migration.freight.comparison import Piece
from mudanza.migration.freight.qcow2_header import HEAD, backing_format, backing_name, virtual_size
from mudanza.model.host import Host
from mudanza.preflight.cargo import CargoFile

Seat = tuple[HostConnection, Host]


def candidates(source: Seat, target: Seat, pieces: Sequence[Piece], differing: Collection[str]) -> Iterator[Piece]:
    """Yield those of the ``differing`` files (paths at the source) that may be as good as the source's, as pieces to be
    compared by what a guest finds in them.

    They name the base there that they are to have, in the same format, and all of their chain lies there. ``pieces``:
    what lay at the target already. Raises HypervisorError, HostUnreachableError.
    """
    there = {piece.file.source: piece for piece in pieces if not piece.fresh}
    for path in differing:
        piece = there[path]
        chain = tuple(_chain(piece.file, there))
        layers = _layers(chain, at_target=False), _layers(chain, at_target=True)
        if piece.file.source_format != "qcow2" or not piece.file.below or chain[-1].below or not is_readable(layers[0]):
            continue
        mine = read_bytes(*source, piece.file.source, 0, min(HEAD, piece.length))
        theirs = read_bytes(*target, piece.file.path, 0, min(HEAD, piece.length))
        size = virtual_size(mine)
        wanted = there[piece.file.below].file.path, backing_format(mine)
        if size is not None and None not in wanted and (backing_name(theirs), backing_format(theirs)) == wanted:
            yield replace(piece, length=size, here=layers[0], there=layers[1])


def _chain(file: CargoFile, there: dict[str, Piece]) -> Iterator[CargoFile]:
    """Yield a file and what it is built upon, as far as that lies at the target."""
    yield file
    while (below := there.get(file.below)) is not None:
        file = below.file
        yield file


def _layers(chain: Sequence[CargoFile], *, at_target: bool) -> tuple[Layer, ...]:
    return tuple(
        Layer(file.path, file.format, file.is_block)
        if at_target
        else Layer(file.source, file.source_format, file.source_is_block)
        for file in chain
    )
