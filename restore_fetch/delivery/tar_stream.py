"""A tar file that goes by: its headers are read, its members passed over; nothing is ever unpacked to the disk."""

from __future__ import annotations

import posixpath
import re

_BLOCK_BYTES = 512
_BLOCKS_AT_THE_END = 2
_LARGEST_EXTENSION_BYTES = 1024 * 1024  # a long name, or extended attributes: more than that nobody has
_LARGEST_SIZE = 2**63 - 1
_RESTORE_INFO_BYTES = 64 * 1024
_MOST_NAMES = 10
_LONGEST_NAME = 300
_MOST_ENTRIES = 100
_LONGEST_VALUE = 2000
_OCTAL = re.compile(rb" *([0-7]*) *\Z")
_ENTRY = re.compile(r"([^:]{1,100}?)\s*:\s*(.*?)\s*\Z")
_HARD_LINK, _SYMBOLIC_LINK, _SPARSE = b"1", b"2", b"S"
_WITHOUT_CONTENT = frozenset({_HARD_LINK, _SYMBOLIC_LINK, b"3", b"4", b"5", b"6"})
_LONG_NAME, _LONG_LINK, _EXTENSIONS, _GLOBAL = b"L", b"K", frozenset({b"x", b"X"}), b"g"
_MORE_SPARSE_AT, _MORE_SPARSE_AGAIN_AT = 482, 504
_RESTORE_INFO = "restoreInfo.txt"
_STORAGE_BSON = "storage.bson"


class TarReader:
    """Reads a tar file in constant memory: POSIX, GNU and old ones.

    It must end with two blocks of zeros, and nothing else but zeros may follow.

    Attributes:
        members: How many members there are so far.
        outside: The first few whose names, or the targets of links, lead out of the folder they are unpacked in.
        outside_count: How many of those there are.
    """

    def __init__(self) -> None:
        self.members = 0
        self.outside: list[str] = []
        self.outside_count = 0
        self._block = bytearray()
        self._left = 0  # of the content that is passed over, with what fills its last block
        self._kept = bytearray()
        self._keep = 0  # how much more of it is to be kept
        self._content_is: bytes | None = None  # the kind of the content that is kept
        self._zero_blocks = 0
        self._more_sparse = 0  # whether further headers of a sparse member come, and then
        self._pending = 0  # how much content after them
        self._name = ""
        self._extended: dict[str, bytes] = {}
        self._restore_info: bytes | None = None
        self._seen: set[str] = set()

    @property
    def data_directory(self) -> bool:
        """Whether there were the files that make a folder a data directory of WiredTiger."""
        return {"WiredTiger", ".wt", _STORAGE_BSON} <= self._seen

    @property
    def restore_info(self) -> dict[str, str] | None:
        """What `restoreInfo.txt` says, line by line; None when there was no such file."""
        if self._restore_info is None:
            return None
        lines = self._restore_info.decode("utf-8", "backslashreplace").splitlines()
        entries = [match for line in lines if (match := _ENTRY.match(line))]
        return {show(entry[1].strip()): show(entry[2], _LONGEST_VALUE) for entry in entries[:_MOST_ENTRIES]}

    def feed(self, data: bytes | memoryview) -> None:
        """Take in the next bytes of the file.

        Raises:
            ValueError: The file is damaged; the text says how.
        """
        view = memoryview(data)
        while view:
            if self._left:
                view = self._pass_over(view)
            elif self._zero_blocks == _BLOCKS_AT_THE_END:
                if bytes(view).strip(b"\0"):
                    raise ValueError("something follows the end of the tar file")
                return
            else:
                missing = _BLOCK_BYTES - len(self._block)
                self._block += view[:missing]
                view = view[missing:]
                if len(self._block) == _BLOCK_BYTES:
                    block = bytes(self._block)
                    self._block.clear()
                    self._read_block(block)

    def finish(self) -> None:
        """Say that there are no more bytes.

        Raises:
            ValueError: There should be more.
        """
        if self._left:
            raise ValueError(f"the tar file ends within the content of {show(self._name)}")
        if self._block or self._more_sparse or self._extended:
            raise ValueError("the tar file ends within a header")
        if self._zero_blocks < _BLOCKS_AT_THE_END:
            raise ValueError("the tar file has no end: the two blocks of zeros are missing")
        if not self.members:
            raise ValueError("the tar file has no members")

    def _pass_over(self, view: memoryview) -> memoryview:
        count = min(self._left, len(view))
        if self._keep:
            kept = view[: min(count, self._keep)]
            self._kept += kept
            self._keep -= len(kept)
        self._left -= count
        if not self._left:
            self._end_content()
        return view[count:]

    def _read_block(self, block: bytes) -> None:
        if self._more_sparse:
            self._more_sparse = block[_MORE_SPARSE_AGAIN_AT]
            if not self._more_sparse:
                self._left, self._pending = self._pending, 0
            return
        if not block.strip(b"\0"):
            self._zero_blocks += 1
            return
        if self._zero_blocks:
            raise ValueError("the tar file has a block of zeros between its members")
        _check_sum(block)
        kind, size = block[156:157], _number(block[124:136])
        if kind in (_LONG_NAME, _LONG_LINK, _GLOBAL) or kind in _EXTENSIONS:
            if size > _LARGEST_EXTENSION_BYTES:
                raise ValueError(f"a tar header is extended by {size} bytes")
            self._begin_content(size, kind, keep=0 if kind == _GLOBAL else size)
        else:
            self._read_member(block, kind, size)

    def _read_member(self, block: bytes, kind: bytes, size: int) -> None:
        extended, self._extended = self._extended, {}
        name = _text(extended.get("path") or _name(block))
        if "size" in extended:
            size = _decimal(extended["size"])
        self.members += 1
        self._name = name
        self._look_at(name, kind, _text(extended.get("linkpath") or _until_zero(block[157:257])))
        if kind in _WITHOUT_CONTENT or (kind == b"\0" and name.endswith("/")):
            return
        wanted = self._restore_info is None and posixpath.basename(name) == _RESTORE_INFO
        self._begin_content(size, kind if wanted else None, keep=min(size, _RESTORE_INFO_BYTES) if wanted else 0)
        if kind == _SPARSE and block[_MORE_SPARSE_AT]:
            self._more_sparse, self._pending, self._left = 1, self._left, 0

    def _begin_content(self, size: int, kind: bytes | None, *, keep: int) -> None:
        self._content_is, self._keep = kind, keep
        self._left = -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
        if not self._left:
            self._end_content()

    def _end_content(self) -> None:
        kind, kept = self._content_is, bytes(self._kept)
        self._kept.clear()
        self._content_is = None
        if kind is None or kind == _GLOBAL:
            return
        if kind == _LONG_NAME:
            self._extended["path"] = _until_zero(kept)
        elif kind == _LONG_LINK:
            self._extended["linkpath"] = _until_zero(kept)
        elif kind in _EXTENSIONS:
            self._extended.update(_extensions(kept))
        else:
            self._restore_info = kept

    def _look_at(self, name: str, kind: bytes, target: str) -> None:
        base = posixpath.basename(name)
        if base in (_STORAGE_BSON, "WiredTiger"):
            self._seen.add(base)
        elif base.endswith(".wt"):
            self._seen.add(".wt")
        leads = _leads_out(name)
        shown = show(name)
        if kind == _SYMBOLIC_LINK and not leads:
            leads = _leads_out(posixpath.normpath(posixpath.join(posixpath.dirname(name), target)))
            shown = f"{shown} -> {show(target)}"
        elif kind == _HARD_LINK and not leads:
            leads = _leads_out(target)
            shown = f"{shown} -> {show(target)}"
        if leads:
            self.outside_count += 1
            if len(self.outside) < _MOST_NAMES:
                self.outside.append(shown)


def show(text: str, longest: int = _LONGEST_NAME) -> str:
    """A text from an archive, so that it can be shown: no control characters, and not endless."""
    text = text if len(text) <= longest else text[:longest] + "…"
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)


def _leads_out(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")


def _check_sum(block: bytes) -> None:
    stored = _number(block[148:156])
    counted = block[:148] + b" " * 8 + block[156:]
    total = sum(counted)
    # Some old programs added the bytes up as signed ones.
    if stored not in (total, total - 256 * sum(byte > 127 for byte in counted)):
        raise ValueError("the checksum of a tar header is wrong")


def _number(field: bytes) -> int:
    """A number of a header: octal, or binary where it would be too large for that."""
    if field[0] & 0x80:
        number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] != 0x80 or number > _LARGEST_SIZE:
            raise ValueError("a tar header has a number that cannot be")
        return number
    match = _OCTAL.match(_until_zero(field))
    if match is None:
        raise ValueError("a tar header has a number that is none")
    return int(match[1] or b"0", 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > len(str(_LARGEST_SIZE)) or int(text) > _LARGEST_SIZE:
        raise ValueError("a tar header is extended by a size that cannot be")
    return int(text)


def _name(block: bytes) -> bytes:
    name, prefix = _until_zero(block[:100]), _until_zero(block[345:500])
    # A GNU header (`ustar  `) has other things where a POSIX one (`ustar\0`) has the prefix.
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _until_zero(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _extensions(content: bytes) -> dict[str, bytes]:
    """The records of an extended header that matter here: `LENGTH KEYWORD=VALUE` and a line feed (POSIX pax)."""
    found = {}
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + 20)
        digits = content[at:space] if space > at else b""
        end = at + (int(digits) if digits.isdigit() else 0)
        keyword, equals, value = content[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(content) or not equals or content[end - 1 : end] != b"\n":
            raise ValueError("an extended tar header is malformed")
        if keyword in (b"path", b"linkpath", b"size"):
            found[keyword.decode()] = value
        at = end
    return found
