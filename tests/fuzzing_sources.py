"""Small tars with seeded damage, for whatever must end with a listing or with one line, and soon."""

import io
import random
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

from running import jpeg

KINDS = ("webdataset", "official")
_IMAGE = jpeg((16, 12))
_WNIDS = ("n01440764", "n01443537")


def whole(kind: str, seed: int) -> bytes:
    """An undamaged tar of that kind, in one of tarfile's formats."""
    chosen = random.Random(seed)
    dialect = chosen.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    long = "deep/" * chosen.choice((0, 0, 30))  # names over 100 bytes need headers of their own
    if kind == "webdataset":
        files = [(f"{long}{n:03d}.{field}", data) for n in range(4) for field, data in (("jpg", _IMAGE), ("cls", b"7"))]
        return _tar(files, dialect)
    inner = [(f"{w}.tar", _tar([(f"{long}{w}_{n}.JPEG", _IMAGE) for n in range(3)], dialect)) for w in _WNIDS]
    return _tar(inner, dialect)


def mutations(kind: str, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` pairs of (what was done, a damaged tar); the same for the same arguments."""
    for number in range(seed, seed + count):
        chosen = random.Random(f"{kind} {number}")
        data = bytearray(whole(kind, number))
        done = []
        for _ in range(chosen.randint(1, 3)):
            how = chosen.choice((_flip, _flip_header, _cut, _claim, _retype, _relink, _repeat, _swap, _overwrite))
            how(data, chosen)
            done.append(how.__name__.strip("_"))
        yield f"{kind} seed {number}: {', '.join(done)}", bytes(data)


def write_source(kind: str, data: bytes, folder: Path) -> None:
    """Put a tar where the source looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("x-train-0.tar" if kind == "webdataset" else "ILSVRC2012_img_train.tar")).write_bytes(data)


def _tar(files: list[tuple[str, bytes]], dialect: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if dialect == tarfile.PAX_FORMAT:
                member.pax_headers = {"comment": "x" * 600}
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# --- damage; each changes `data` in place ----------------------------------------------------------------------------


def _headers(data: bytearray) -> list[int]:
    """Where headers stand, those of tars inside too."""
    return [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"] or [0]


def _mend(data: bytearray, at: int) -> None:
    """Make a header's checksum right again: the damage is a lie, not noise."""
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


def _flip(data: bytearray, chosen: random.Random) -> None:
    if data:
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)


def _flip_header(data: bytearray, chosen: random.Random) -> None:
    at = chosen.choice(_headers(data))
    if at + 512 <= len(data):
        data[at + chosen.randrange(512)] ^= 1 << chosen.randrange(8)
        _mend(data, at)


def _cut(data: bytearray, chosen: random.Random) -> None:
    del data[chosen.randrange(len(data) + 1) :]


def _claim(data: bytearray, chosen: random.Random) -> None:
    """Another size: huge, negative, or nearly right; as octal text or base-256."""
    at = chosen.choice(_headers(data))
    size = chosen.choice((0, 1, 511, 513, 10**6, 10**10, 10**14, 2**62, 2**80, -1, -512, -(10**6)))
    if at + 512 <= len(data):
        wide = (size % (1 << 88)).to_bytes(11, "big")
        data[at + 124 : at + 136] = bytes([0xFF if size < 0 else 0x80]) + wide
        _mend(data, at)


def _retype(data: bytearray, chosen: random.Random) -> None:
    at = chosen.choice(_headers(data))
    if at + 512 <= len(data):
        data[at + 156] = chosen.choice(b"01234567xgLKSDMVNX\0\xff")
        _mend(data, at)


def _relink(data: bytearray, chosen: random.Random) -> None:
    """A hard or symbolic link to itself, to another member, or to nothing."""
    at, other = chosen.choice(_headers(data)), chosen.choice(_headers(data))
    if max(at, other) + 512 <= len(data):
        name = chosen.choice(
            (bytes(data[at : at + 100]), bytes(data[other : other + 100]), b"nothing".ljust(100, b"\0"))
        )
        data[at + 156 : at + 257] = chosen.choice((b"1", b"2")) + name
        _mend(data, at)


def _repeat(data: bytearray, chosen: random.Random) -> None:
    """Some blocks again, hundreds of times: chains of headers, names that come twice."""
    at = chosen.choice(_headers(data))
    block = bytes(data[at : at + 512 * chosen.choice((1, 2, 3))])
    data[at:at] = block * chosen.choice((1, 2, 1500))


def _swap(data: bytearray, chosen: random.Random) -> None:
    at, other = chosen.choice(_headers(data)), chosen.choice(_headers(data))
    if max(at, other) + 512 <= len(data):
        data[at : at + 512], data[other : other + 512] = data[other : other + 512], data[at : at + 512]


def _overwrite(data: bytearray, chosen: random.Random) -> None:
    """A PAX record or a sparse map that lies, where the bytes of a member were."""
    at = chosen.choice(_headers(data))
    record = chosen.choice((
        b"30 size=-99999999999999999999\n", b"22 size=999999999999\n", b"99999999999999999 path=x\n", b"0 path=x\n",
        b"28 GNU.sparse.major=1\n28 GNU.sparse.minor=0\n", b"18 mtime=notanumber\n", b"25 GNU.sparse.size=10\n",
        b"30 GNU.sparse.map=0,1,2,a,9\n", struct.pack("<Q", 2**63),
    ))  # fmt: skip
    if at + 1024 <= len(data):
        data[at + 512 : at + 512 + len(record)] = record
        data[at + 156] = ord(chosen.choice("xg"))
        _mend(data, at)
