"""Whether an image keeps content in another file than itself, from how it begins: pure.

qcow2 (QEMU's docs/interop/qcow2.txt, big-endian): version at byte 4, incompatible features at 72, of which bit 2 says
that guest data lies in an external file, header length at 100; from there on extensions of type, length and data padded
to 8 bytes, the external file's name being of type 0x44415441. VMDK: a text that describes extents lying in other files
begins with "# Disk DescriptorFile".
"""

from __future__ import annotations

import struct

_QCOW2 = b"QFI\xfb"
_EXTERNAL_DATA = 1 << 2
_DATA_FILE_NAME = 0x44415441
_VMDK_DESCRIPTOR = b"# Disk DescriptorFile"


def data_elsewhere(head: bytes) -> str | None:
    """Return the name of the file that holds an image's content; None for an image that holds it itself.

    ``head``: the first bytes of the image, a few KiB. Where the name is not told in them it is in words.
    """
    if head.startswith(_VMDK_DESCRIPTOR):
        return "the files of its extents"
    if not head.startswith(_QCOW2) or len(head) < 104 or struct.unpack_from(">I", head, 4)[0] < 3:
        return None
    if not struct.unpack_from(">Q", head, 72)[0] & _EXTERNAL_DATA:
        return None
    return _data_file_name(head) or "an external data file"


def _data_file_name(head: bytes) -> str | None:
    at = struct.unpack_from(">I", head, 100)[0]
    while at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if not kind:
            return None
        if kind == _DATA_FILE_NAME:
            return head[at + 8 : at + 8 + length].decode("utf-8", "replace")
        at += 8 + (length + 7) // 8 * 8
    return None
