"""What a guest finds on a disk, at the source and at the target: for what cannot be compared byte for byte. Pure."""

from __future__ import annotations

from mudanza.hypervisor.contents.reading import Layer, is_readable
from mudanza.hypervisor.own.carrier import SECTOR
from mudanza.preflight.cargo import CargoFile

Layers = tuple[Layer, ...]


def images_at_both_ends(file: CargoFile) -> tuple[Layers, Layers]:
    """Return the images of a disk that becomes another format, or one image with its chain: at the source, then at the
    target; nothing for what arrives as it is, or cannot be read."""
    here = (
        Layer(file.source, file.source_format, file.source_is_block),
        *(Layer(image.path, image.format, image.path.startswith("/dev/")) for image in file.chain),
    )
    there = (Layer(file.path, file.format, file.is_block),)
    return (here, there) if not file.as_it_is and is_readable((*here, *there)) else ((), ())


def length_of(file: CargoFile, length: int) -> int:
    """Return how many bytes of a file that is so long travel: of an image whose content does, a guest's whole disk."""
    return length if file.as_it_is else -(-file.size // SECTOR) * SECTOR
