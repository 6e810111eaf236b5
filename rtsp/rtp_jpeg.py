"""A JPEG from RTP payloads: the headers are rebuilt, the scan is the camera's.

Source: RFC 2435; the standard tables are those of ITU-T T.81, annex K.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rtsp.assembler import BuiltPicture

_DYNAMIC_TABLES: Final = 128  # from this quality on the camera sends its tables
_RESTART_TYPES: Final = range(64, 128)
_LUMA_SAMPLING: Final = {0: 0x21, 1: 0x22}
_START: Final = b"\xff\xd8"
_END: Final = b"\xff\xd9"
_LARGEST_BYTES: Final = 16_000_000

# fmt: off
_QUANTIZERS: Final = (
    bytes.fromhex(
        "100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d3c3933"
        "383740485c4e404457453738506d51575f626768673e4d71797064785c656763"
    ),
    bytes.fromhex(
        "1112121815182f1a1a2f63423842636363636363636363636363636363636363"
        "6363636363636363636363636363636363636363636363636363636363636363"
    ),
)
_HUFFMAN: Final = bytes.fromhex(
    "ffc4001f0000010501010101010100000000000000000102030405060708090a0b"
    "ffc400b5100002010303020403050504040000017d0102030004110512213141061351610722711432"
    "8191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a43444546"
    "4748494a535455565758595a636465666768696a737475767778797a838485868788898a9293949596"
    "9798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1"
    "e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
    "ffc4001f0100030101010101010101010000000000000102030405060708090a0b"
    "ffc400b51100020102040403040705040400010277000102031104052131061241510761711322"
    "328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a43"
    "4445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92"
    "939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7"
    "d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
)
# fmt: on


class JpegAssembler:
    """Join the payloads of one picture.

    `size` (width, height) is for pictures over 2040 pixels, which RTP's size fields can't hold.
    """

    def __init__(self, size: tuple[int, int] = (0, 0)) -> None:
        self._size = size
        self._quantizers: dict[int, list[bytes]] = {}
        """By quality: a camera may send each table only once."""
        self._built: list[BuiltPicture] = []
        self._begin()

    def _begin(self) -> None:
        self._head = b""
        self._scan = bytearray()
        self._broken = False
        self._after_loss = False

    @property
    def has_begun(self) -> bool:
        """Tell whether a part of the picture has come."""
        return bool(self._scan)

    is_midway = False
    """Its end is what the marker bit says."""

    def add(self, payload: bytes, *, after_loss: bool) -> None:
        """Take the next payload; `after_loss` when packets before it are missing."""
        if len(payload) < 8:  # padding alone, or cut
            self._broken |= bool(self._scan) and bool(payload or after_loss)
            return
        offset = int.from_bytes(payload[1:4], "big")
        if offset == 0 and self._scan and (built := self.finish(torn=after_loss)) is not None:
            self._built.append(built)  # neither stamp nor marker said that it has ended
        self._broken |= after_loss and bool(self._scan)
        self._after_loss |= after_loss
        if offset != len(self._scan) or offset > _LARGEST_BYTES:
            self._broken = True
            return
        at = 8
        restart = b""
        if payload[4] in _RESTART_TYPES:
            restart = b"\xff\xdd\0\4" + payload[8:10]
            at = 12
        if offset == 0:
            if payload[5] >= _DYNAMIC_TABLES:
                tables_bytes = int.from_bytes(payload[at + 2 : at + 4], "big")
                tables = payload[at + 4 : at + 4 + tables_bytes]
                precision = payload[at + 1] if len(payload) > at + 1 else 0
                at += 4 + tables_bytes
                quantizers = _sent_quantizers(tables, precision)
                quantizers = quantizers or self._quantizers.get(payload[5], [])
                self._quantizers[payload[5]] = quantizers
            else:
                quantizers = _standard_quantizers(payload[5])
            size = (payload[6] * 8, payload[7] * 8)
            size = size if all(size) else self._size
            self._head = _headers(payload[4] % 64, size, quantizers, restart)
            self._broken |= not quantizers or payload[4] % 64 not in _LUMA_SAMPLING
        self._scan += payload[at:]

    def take_built(self) -> Sequence[BuiltPicture]:
        """Return JPEGs that the beginning of another one has ended."""
        built, self._built = self._built, []
        return built

    def finish(self, *, torn: bool) -> BuiltPicture | None:
        """Return the JPEG and begin the next; of a torn one what came before the gap, if any."""
        scan, head, broken = bytes(self._scan), self._head, self._broken or torn
        after_loss = self._after_loss
        self._begin()
        if not (scan or broken):
            return None
        if scan.startswith(_START):  # some cameras send the whole file
            head = b""
        end = b"" if not scan or scan.rstrip(b"\0").endswith(_END) else _END
        return BuiltPicture(key=True, data=head + scan + end, torn=broken, after_loss=after_loss)

    def go_on(self) -> None:
        """Do nothing: a JPEG's first payload tells that it is the first."""


def _sent_quantizers(tables: bytes, precision: int) -> list[bytes]:
    """Return the contents of DQT segments for a packet's tables; empty when they are cut short."""
    found = []
    at = 0
    for number in range(2):
        wide = precision >> number & 1
        size = 128 if wide else 64
        table = tables[at : at + size]
        if len(table) == size:
            found.append(bytes([wide << 4 | number]) + table)
            at += size
    if len(found) == 1:  # one table serves all components
        found.append(bytes([found[0][0] | 1]) + found[0][1:])
    return found


def _standard_quantizers(quality: int) -> list[bytes]:
    """Return the standard tables scaled to a quality of 1 to 99; empty for any other."""
    if not 1 <= quality <= 99:
        return []
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [
        bytes([number]) + bytes(min(255, max(1, (step * scale + 50) // 100)) for step in table)
        for number, table in enumerate(_QUANTIZERS)
    ]


def _headers(
    kind: int, size: tuple[int, int], quantizers: list[bytes], restart_interval: bytes
) -> bytes:
    width, height = size
    sampling = _LUMA_SAMPLING.get(kind, 0x22)
    sizes = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"".join(
        (
            b"\xff\xd8",
            *(b"\xff\xdb" + (len(q) + 2).to_bytes(2, "big") + q for q in quantizers),
            b"\xff\xc0\x00\x11\x08" + sizes,
            bytes([3, 1, sampling, 0, 2, 0x11, 1, 3, 0x11, 1]),
            _HUFFMAN,
            restart_interval,
            b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00",
        )
    )
