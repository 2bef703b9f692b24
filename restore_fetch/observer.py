"""Who is told what happens during a run; the command line shows it to people, a test keeps a list."""

from __future__ import annotations

from typing import Literal, Protocol, Self

Level = Literal["debug", "info", "warning"]


class Observer(Protocol):
    """Hears of everything worth telling. Nothing that it is told is a secret, and nothing it does may fail."""

    def note(self, event: str, message: str, *, level: Level = "info") -> None:
        """Something happened that a log should hold.

        Args:
            event: A short, stable name for machines.
            message: A sentence for people.
            level: How much it matters.
        """
        ...

    def waiting(self, what: str, waited_seconds: float) -> None:
        """Still waiting, for what and how long."""
        ...

    def downloading(self, received_bytes: int, total_bytes: int | None) -> None:
        """So many bytes are here, of so many when that is known."""
        ...

    def rereading(self, read_bytes: int, total_bytes: int) -> None:
        """Bytes of an earlier run are being hashed again."""
        ...


class BatchObserver(Observer, Protocol):
    """Hears of a whole batch, from several threads at once."""

    def begin(self, members: int) -> None:
        """So many jobs are to be fetched."""
        ...

    def member(self, job_id: str) -> Observer:
        """Who hears of one of them."""
        ...

    def ended(self, job_id: str, error: Exception | None) -> None:
        """One of them is done, or failed."""
        ...


class SilentObserver:
    """Listens to nothing."""

    def begin(self, members: int) -> None:
        """See `BatchObserver.begin`."""

    def member(self, job_id: str) -> Self:
        """See `BatchObserver.member`."""
        return self

    def ended(self, job_id: str, error: Exception | None) -> None:
        """See `BatchObserver.ended`."""

    def note(self, event: str, message: str, *, level: Level = "info") -> None:
        """See `Observer.note`."""

    def waiting(self, what: str, waited_seconds: float) -> None:
        """See `Observer.waiting`."""

    def downloading(self, received_bytes: int, total_bytes: int | None) -> None:
        """See `Observer.downloading`."""

    def rereading(self, read_bytes: int, total_bytes: int) -> None:
        """See `Observer.rereading`."""
