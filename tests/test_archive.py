"""The structure of archives: what is whole is called so, what is not is found, and nothing makes it use memory."""

from __future__ import annotations

import gzip
import os
import random
import struct
import tarfile
import tracemalloc
import zlib

import pytest

from restore_fetch.delivery import gzip_stream
from tests.archive_support import RESTORE_INFO, data_directory, look, member, packed, tar

WHOLE = packed()
PLAIN = tar(data_directory())
FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def offsets(length: int, count: int = 50) -> list[int]:
    return sorted({length * number // count for number in range(count)})


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def inflater(request, monkeypatch):
    """Everything here holds with the fast inflater, and with the one that is there on every machine."""
    if request.param == "zlib":
        monkeypatch.setattr(gzip_stream, "_zlib", zlib)
    else:
        pytest.importorskip("isal")


# --- whole


def test_a_whole_archive_is_whole_and_described():
    found = look(WHOLE)
    assert (found.gzip, found.tar, found.finding) == (True, True, None)
    assert found.archive.members == 6
    assert found.archive.unpacked_bytes == len(PLAIN)
    assert found.archive.restore_info == {"Group Name": "a: b", "Replica Set": "rs0", "Empty": ""}
    assert found.archive.data_directory
    assert found.archive.outside_count == 0


@pytest.mark.parametrize("piece_bytes", [1, 7, 511, 512, 4096])
def test_the_pieces_that_it_comes_in_make_no_difference(piece_bytes):
    assert look(WHOLE, piece_bytes=piece_bytes) == look(WHOLE)
    assert look(PLAIN, "x.tar", piece_bytes) == look(PLAIN, "x.tar")


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_every_form_of_tar_is_read(form):
    long = "" if form == tarfile.USTAR_FORMAT else "x" * 300
    link = member("rs0/link", kind=tarfile.SYMTYPE, target="f" * (60 if not long else 200))
    members = [*data_directory(), link, member(f"rs0/{'d' * 60}/{'e' * 60}/{long}f.wt", b"abc"), member("rs0/last")]
    found = look(gzip.compress(tar(members, form)))
    assert found.finding is None
    assert found.archive.members == len(members)


def test_a_member_beyond_eight_gibibytes_is_measured_by_its_binary_size():
    info = tarfile.TarInfo("rs0/big.wt")
    info.size = 9 * 2**30
    header = info.tobuf(tarfile.GNU_FORMAT)
    assert "ends within the content of rs0/big.wt" in str(look(header + bytes(2**20), "x.tar").finding)


def test_a_sparse_member_is_passed_over_with_all_its_headers():
    info = tarfile.TarInfo("rs0/sparse.wt")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 700
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    more, last = bytearray(512), bytearray(512)
    more[504] = 1
    found = look(bytes(header + more + last) + b"x" * 1024 + PLAIN, "x.tar")
    assert found.finding is None
    assert found.archive.members == 7


def test_a_gzip_file_of_several_members_is_one_archive():
    content = gzip.compress(PLAIN[:3000]) + gzip.compress(b"") + gzip.compress(PLAIN[3000:])
    assert look(content).finding is None
    assert look(content, piece_bytes=1).finding is None
    assert look(content[:-3]).finding == "the file ends in the middle of gzip member 3"


def test_every_field_of_a_gzip_header_is_passed_over():
    header = (
        b"\x1f\x8b\x08" + bytes([2 | 4 | 8 | 16]) + bytes(6) + struct.pack("<H", 5) + b"ab\0de" + b"name\0why\0"
    )
    header += struct.pack("<H", zlib.crc32(header) & 0xFFFF)
    plain = gzip.compress(PLAIN, mtime=0)
    assert look(header + plain[10:], piece_bytes=1).finding is None
    assert look(header + plain[10:]).finding is None
    broken = bytearray(header)
    broken[-3] ^= 1
    assert look(bytes(broken) + plain[10:]).finding is not None


def test_a_tar_file_without_gzip_is_judged_by_its_own_structure():
    found = look(PLAIN, "old.tar")
    assert (found.gzip, found.tar, found.finding) == (None, True, None)
    assert look(WHOLE, "old.tar").gzip is True
    assert look(PLAIN, "new.tar.gz").finding == "the file is no gzip file"


# --- damaged


@pytest.mark.parametrize("offset", offsets(len(WHOLE)) + [len(WHOLE) - left for left in range(1, 9)])
def test_a_cut_archive_is_found(offset):
    found = look(WHOLE[:offset])
    assert found.finding is not None
    assert (found.gzip, found.tar) == (False, None)


@pytest.mark.parametrize("offset", offsets(len(PLAIN.rstrip(b"\0"))))
def test_a_cut_tar_file_is_found(offset):
    whole_in_gzip = look(gzip.compress(PLAIN[:offset]))
    assert (whole_in_gzip.gzip, whole_in_gzip.tar) == (True, False)
    assert look(PLAIN[:offset], "x.tar").tar is not True


# From 4 on there are a time stamp and the name of an operating system, which mean nothing.
@pytest.mark.parametrize("offset", [0, 1, 2, *offsets(len(WHOLE) - 30)[1:], len(WHOLE) - 8, len(WHOLE) - 1])
def test_a_flipped_byte_is_found(offset):
    content = bytearray(WHOLE)
    content[offset] ^= 0xFF
    found = look(bytes(content))
    assert found.finding is not None
    assert found.gzip is not True


def test_a_wrong_crc_and_a_wrong_length_are_told_apart():
    assert look(WHOLE[:-8] + b"abcd" + WHOLE[-4:]).finding == "the CRC of gzip member 1 is wrong"
    assert look(WHOLE[:-4] + b"abcd").finding == "the length of gzip member 1 is wrong"


@pytest.mark.parametrize(
    "tail",
    [b"\0", b"x", bytes(4096), b"<html>", b"\x1f", b"\x1f\x8b\x08", WHOLE[:-1], gzip.compress(b"x")],
    ids=["zero", "letter", "zeros", "html", "1f", "magic", "half another", "another"],
)
def test_whatever_follows_the_end_is_found(tail):
    for piece_bytes in (1 << 20, 97):
        found = look(WHOLE + tail, piece_bytes=piece_bytes)
        assert found.finding is not None
        assert False in (found.gzip, found.tar)


def test_zeros_may_follow_the_end_of_a_tar_file_and_nothing_else():
    assert look(gzip.compress(PLAIN + bytes(5000))).finding is None
    assert look(gzip.compress(PLAIN + b"x")).finding == "something follows the end of the tar file"
    # An archive in an archive's padding is no member of it, and would be a way to hide one.
    assert look(gzip.compress(PLAIN + PLAIN)).tar is False


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"<html>an error</html>", "no gzip file"),
        (gzip.compress(b""), "no end"),
        (gzip.compress(bytes(10240)), "no members"),
        (gzip.compress(PLAIN.rstrip(b"\0") + bytes(-len(PLAIN.rstrip(b"\0")) % 512)), "two blocks of zeros"),
        (gzip.compress(PLAIN[:512] + bytes(512) + PLAIN[512:]), "zeros between"),
        (gzip.compress(b"text " * 300), "a tar header has"),
    ],
    ids=["empty", "html", "nothing", "zeros", "no end", "lone zeros", "text"],
)
def test_what_is_no_archive_is_told(content, words):
    assert words in str(look(content).finding)


@pytest.mark.parametrize("offset", [0, 100, 124, 148, 156, 257, 345])
def test_a_damaged_tar_header_is_found(offset):
    content = bytearray(PLAIN)
    content[512 + offset] ^= 0x04
    found = look(gzip.compress(bytes(content)))
    assert (found.gzip, found.tar) == (True, False)


@pytest.mark.parametrize("seed", range(20))
def test_noise_never_upsets_the_inspector(seed):
    noise = random.Random(seed)
    content = bytearray(PLAIN)
    for _ in range(noise.randint(1, 200)):
        content[noise.randrange(len(content))] = noise.randrange(256)
    look(bytes(content), "x.tar")
    look(gzip.compress(bytes(content)))
    mangled = bytearray(WHOLE)
    mangled[noise.randrange(10, len(mangled))] ^= 1 << noise.randrange(8)
    look(bytes(mangled))
    assert look(noise.randbytes(5000)).finding is not None


# --- hostile


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        (member("../../etc/passwd", b"root::0:0::/:/bin/sh\n"), "../../etc/passwd"),
        (member("/etc/passwd"), "/etc/passwd"),
        (member("rs0/../../x"), "rs0/../../x"),
        (member("rs0/a", kind=tarfile.SYMTYPE, target="/etc"), "rs0/a -> /etc"),
        (member("rs0/a", kind=tarfile.SYMTYPE, target="../../etc"), "rs0/a -> ../../etc"),
        (member("rs0/a", kind=tarfile.LNKTYPE, target="../x"), "rs0/a -> ../x"),
        (member("../\x1b[2Jx\n"), "../\\x1b[2Jx\\x0a"),
        (member("../" + "y" * 5000), "../" + "y" * 297 + "…"),
    ],
    ids=["up", "absolute", "in between", "link", "link up", "hard link", "control characters", "long"],
)
def test_a_member_that_would_leave_the_folder_is_reported(hostile, shown):
    found = look(packed([*data_directory(), hostile]))
    assert (found.finding, found.tar) == (None, True)
    assert found.archive.outside == (shown,)
    assert found.archive.outside_count == 1


@pytest.mark.parametrize(
    "harmless",
    [
        member("rs0/..a"),
        member("rs0/b/c", kind=tarfile.SYMTYPE, target="../d"),
        member("rs0/b", kind=tarfile.LNKTYPE, target="rs0/a"),
    ],
    ids=["dots", "link", "hard link"],
)
def test_a_member_that_stays_in_the_folder_is_not_reported(harmless):
    assert look(packed([*data_directory(), harmless])).archive.outside_count == 0


def test_of_many_hostile_members_a_few_are_named():
    found = look(packed([member(f"/{number}") for number in range(1000)]))
    assert (len(found.archive.outside), found.archive.outside_count) == (10, 1000)


def peak_bytes(content: bytes) -> int:
    tracemalloc.start()
    try:
        look(content)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bomb(unpacked_bytes: int) -> bytes:
    """A member of zeros, a thousand times as long as it looks."""
    info = tarfile.TarInfo("rs0/bomb.wt")
    info.size = unpacked_bytes
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    pieces = [packer.compress(info.tobuf())]
    pieces += [packer.compress(bytes(1 << 20)) for _ in range(unpacked_bytes >> 20)]
    return b"".join([*pieces, packer.compress(bytes(1024)), packer.flush()])


def test_a_bomb_is_counted_and_never_held():
    content = bomb(64 << 20)
    assert len(content) < 128 * 1024
    found = look(content)
    assert (found.finding, found.archive.unpacked_bytes) == (None, (64 << 20) + 512 + 1024)
    assert peak_bytes(content) < 2 << 20


@pytest.mark.parametrize("name", ["restoreInfo.txt", "x" * 900_000], ids=["info", "long name"])
def test_a_member_that_pretends_to_be_text_uses_little_memory(name):
    content = packed([member(name, b"key: value\n" * 2_000_000)])
    assert look(content).finding is None
    assert peak_bytes(content) < 8 << 20


def test_a_header_that_is_extended_without_end_is_refused():
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        content = packed([member("x", bytes(2 << 20), kind)])
        assert "extended by 2097152 bytes" in str(look(content).finding)
    endless_name = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (1 << 20)
    assert look(endless_name).finding == "the header of gzip member 1 has no end"


@pytest.mark.parametrize(
    "records", [b"30 path=x\n", b"x", b"0 path=x\n", b"9 path=xy", b"11 size=-5\n", b"13 size=10e99\n"]
)
def test_a_malformed_extended_header_is_found(records):
    content = packed([member("x", records, tarfile.XHDTYPE), *data_directory()])
    assert look(content).tar is False


# --- restoreInfo.txt


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        (RESTORE_INFO, {"Group Name": "a: b", "Replica Set": "rs0", "Empty": ""}),
        (b"", {}),
        (b"no colon\r\nkey : value \r\n", {"key": "value"}),
        (b"\xff\xfe: \xff\n", {"\\xff\\xfe": "\\xff"}),
        (b"a: \x1b[31mred\n", {"a": "\\x1b[31mred"}),
    ],
)
def test_restore_info_is_read_line_by_line(text, entries):
    assert look(packed([member("rs0/restoreInfo.txt", text)])).archive.restore_info == entries


def test_restore_info_is_bounded():
    text = b"".join(b"key %d: value\n" % number for number in range(100_000))
    archive = look(packed([member("restoreInfo.txt", text)])).archive
    assert archive.restore_info is not None
    assert len(archive.restore_info) == 100


def test_an_archive_without_a_data_directory_is_said_to_have_none():
    archive = look(packed([member("rs0/notes.txt", os.urandom(3000))])).archive
    assert not archive.data_directory
    assert archive.restore_info is None
    for missing in ("WiredTiger", "WiredTiger.wt", "storage.bson"):
        members = [one for one in data_directory() if not one[0].name.endswith(f"/{missing}")]
        assert not look(packed(members)).archive.data_directory
