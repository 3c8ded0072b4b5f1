"""Opening: streams give what is inside, end where they can go no further, and begin again at any mark."""

import bz2
import gzip
import io
import lzma
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.data.gather.items import START, Mark
from underlay.data.gather.opening import Limits, Stream, zstd

LIMITS = Limits(1 << 40, 200.0)


def zstd_with_checksum(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


PACK = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd_with_checksum}
PACKINGS = sorted(PACK)


def opened(data: bytes, packing: str | None, start: Mark = START, limits: Limits = LIMITS) -> Stream:
    return Stream(io.BytesIO(data), packing, limits, start)  # type: ignore[arg-type]


def noise(size: int, seed: int = 0) -> bytes:
    """Text that packs neither well nor badly."""
    rng = random.Random(seed)
    return b"".join(b"%d %x\n" % (number, rng.getrandbits(64)) for number in range(size // 20))[:size]


@pytest.mark.parametrize("packing", PACKINGS)
@given(members=st.lists(st.binary(max_size=5000), min_size=1, max_size=6), step=st.integers(1, 3000))
@settings(max_examples=30, deadline=None)
def test_what_was_packed_comes_out(packing: str, members: list[bytes], step: int) -> None:
    data = b"".join(map(PACK[packing], members))
    with opened(data, packing) as stream:
        read = b"".join(iter(lambda: stream.read(step), b""))
        assert (read, stream.offset, stream.broken) == (b"".join(members), len(read), None)


@pytest.mark.parametrize("packing", PACKINGS)
def test_what_comes_before_a_break_is_kept(packing: str) -> None:
    text = noise(3_000_000)
    data = PACK[packing](text)
    with opened(data[: len(data) // 2], packing) as stream:
        read = stream.read(1 << 30)
        assert stream.broken
        assert (stream.broken.reason, stream.broken.offset) == ("truncated", len(read))
        assert text.startswith(read)
        assert len(read) > 500_000
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0xFF
    with opened(bytes(damaged), packing) as stream:
        read = stream.read(1 << 30)
        assert stream.broken
        assert stream.broken.reason == f"bad-{packing}"
        assert len(read) == stream.broken.offset


@pytest.mark.parametrize("packing", PACKINGS)
def test_something_else_behind_the_data_is_told(packing: str) -> None:
    with opened(PACK[packing](b"text") + b"something else, longer than any header would be", packing) as stream:
        assert stream.read(100) == b"text"
        assert stream.broken
        assert stream.broken.reason == f"bad-{packing}"
    with opened(PACK[packing](b"text") + bytes(700), packing) as stream:
        assert stream.read(100) == b"text"
        assert stream.broken is None, "tapes and discs are filled up with zeros"


@pytest.mark.parametrize("packing", PACKINGS)
def test_bombs_are_stopped_at_the_same_byte_however_they_are_read(packing: str) -> None:
    data = PACK[packing](bytes(100 << 20))
    found = set()
    for step in (1 << 20, 77_777):
        with opened(data, packing, limits=Limits(1 << 40, 50.0)) as stream:
            size = stream.skip(1 << 40) if step == 1 << 20 else sum(map(len, iter(lambda: stream.read(step), b"")))  # noqa: B023
            assert stream.broken
            found.add((size, stream.broken.offset, stream.broken.reason))
    assert found == {(64 << 20, 64 << 20, "bomb")}
    with opened(data, packing, limits=Limits(1000, 1e9)) as stream:
        assert (stream.read(5000), stream.broken and stream.broken.reason) == (bytes(1000), "too-large")


@pytest.mark.parametrize("packing", [None, *PACKINGS])
def test_any_mark_leads_back(packing: str | None) -> None:
    parts = [noise(1_300_000, seed) for seed in range(4)]
    text = b"".join(parts)
    data = b"".join(map(PACK[packing], parts)) if packing else text
    marks = []
    with opened(data, packing) as stream:
        number = 1
        while stream.line(1 << 20):
            number += 1
            if number % 20_000 == 0:
                marks.append(stream.mark(number))
    assert len(marks) > 8
    for mark in marks:
        with opened(data, packing, mark) as stream:
            assert stream.offset == mark.offset
            assert stream.read(100) == text[mark.offset : mark.offset + 100]
    if packing:
        assert len({mark.packed for mark in marks}) == 4, "decompressing begins at the member, not at the beginning"


def test_lines_are_cut_where_they_are_too_long() -> None:
    with opened(b"a" * 100 + b"\nb\n", None) as stream:
        assert stream.line(10) == b"a" * 10
        assert stream.skip_line() == 91
        assert stream.line(10) == b"b\n"


@pytest.mark.parametrize("packing", PACKINGS)
@given(data=st.binary(max_size=2000), at=st.integers(0, 10**6), byte=st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_nothing_a_file_holds_raises(packing: str, data: bytes, at: int, byte: int) -> None:
    packed = bytearray(PACK[packing](data) * 2)
    packed[at % len(packed)] = byte
    for one in (bytes(packed), data, bytes(packed[: at % len(packed)])):
        with opened(one, packing) as stream:
            stream.read(1 << 20)
            assert stream.read(1) == b""
