"""The structure of an archive, checked while its bytes go by: is the gzip file whole, and the tar file in it?

What is damaged is only remembered: the bytes may be the only ones there are, so a download goes on to its end, and
is judged then.
"""

from __future__ import annotations

from dataclasses import dataclass

from restore_fetch.delivery.gzip_stream import GzipReader
from restore_fetch.delivery.tar_stream import TarReader
from restore_fetch.records import ArchiveRecord

_PLAIN_SUFFIX = ".tar"
_GZIP_BEGINS_WITH = 0x1F  # no file name does, and a tar file begins with one


@dataclass(frozen=True)
class Inspection:
    """What was found out about the structure of an archive.

    Attributes:
        gzip: Whether every gzip member is whole and the last one the end; None for a plain tar file.
        tar: Whether the tar file is whole; None when that could not be seen, because the gzip file is not.
        finding: What is damaged; None when nothing is.
        archive: What is in it, as far as it could be read.
    """

    gzip: bool | None
    tar: bool | None
    finding: str | None
    archive: ArchiveRecord


class ArchiveInspector:
    """Checks an archive in constant memory, whatever it unpacks to; nothing is unpacked to the disk.

    Args:
        name: The name it will have. Only one that ends in `.tar` may be without gzip.
    """

    def __init__(self, name: str) -> None:
        self._may_be_plain = name.endswith(_PLAIN_SUFFIX)
        self.restart()

    def restart(self) -> None:
        """Forget every byte."""
        self._gzip: GzipReader | None = GzipReader()
        self._tar = TarReader()
        self._gzip_finding: str | None = None
        self._tar_finding: str | None = None
        self._size = 0

    def update(self, data: memoryview) -> None:
        """Take in the next bytes."""
        if self._may_be_plain and self._size == 0 and data and data[0] != _GZIP_BEGINS_WITH:
            self._gzip = None
        self._size += len(data)
        if self._gzip is None:
            self._feed_tar(data)
        elif self._gzip_finding is None:
            try:
                for unpacked in self._gzip.unpack(data):
                    self._feed_tar(unpacked)
            except ValueError as exc:
                self._gzip_finding = str(exc)

    def finish(self) -> Inspection:
        """What all the bytes so far are as a whole archive."""
        if self._gzip is not None and self._gzip_finding is None:
            try:
                self._gzip.finish()
            except ValueError as exc:
                self._gzip_finding = str(exc)
        if self._gzip_finding is None and self._tar_finding is None:
            try:
                self._tar.finish()
            except ValueError as exc:
                self._tar_finding = str(exc)
        # Where the gzip file is damaged, what came out of it says nothing certain about the tar file.
        return Inspection(
            gzip=None if self._gzip is None else self._gzip_finding is None,
            tar=None if self._gzip_finding is not None else self._tar_finding is None,
            finding=self._gzip_finding or self._tar_finding,
            archive=ArchiveRecord(
                members=self._tar.members,
                unpacked_bytes=self._size if self._gzip is None else self._gzip.unpacked_bytes,
                restore_info=self._tar.restore_info,
                data_directory=self._tar.data_directory,
                outside=tuple(self._tar.outside),
                outside_count=self._tar.outside_count,
            ),
        )

    def _feed_tar(self, data: bytes | memoryview) -> None:
        if self._tar_finding is None:
            try:
                self._tar.feed(data)
            except ValueError as exc:
                self._tar_finding = str(exc)
