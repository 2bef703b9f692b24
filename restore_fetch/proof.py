"""The wait for the hash that the service publishes after a download, and what it says about the bytes."""

from __future__ import annotations

from collections.abc import Callable

from restore_fetch import rules
from restore_fetch.delivery import JournalFile
from restore_fetch.errors import RestoreFetchError
from restore_fetch.models import RestoreJob
from restore_fetch.observer import Observer
from restore_fetch.offer import check_same
from restore_fetch.rules import Finding, Judgement
from restore_fetch.shelf import Whole
from restore_fetch.waiting import Patience

_SETTLED_LOOKS = 2


class Proof:
    """Asks for the published hash until it settles what the bytes are.

    A hash that matches settles it at once. One that differs may be of an earlier download, and is asked for
    again until the time is over; only when it can be of nobody's download but ours do two looks settle it. However
    short the time, bytes are never rejected after a single look.

    Args:
        look: One look at the job.
        journal: The journal of the archive.
        whole: The bytes.
        hashes_were_absent: Whether the job had no hash before the download.
        observer: Who is told.
    """

    def __init__(
        self,
        look: Callable[[], RestoreJob],
        journal: JournalFile,
        whole: Whole,
        *,
        hashes_were_absent: bool,
        observer: Observer,
    ) -> None:
        self._look_at_job = look
        self._journal = journal
        self._whole = whole
        self._only_ours = hashes_were_absent and journal.state.downloads_used == 1
        self._observer = observer
        self._seen: list[Judgement] = []

    def wait(self, patience: Patience, seconds: float) -> tuple[RestoreJob, Judgement]:
        """Wait for the hash.

        Args:
            patience: How to pause between looks.
            seconds: How long at most; 0 is one look, and another after a pause when its hash differs.

        Returns:
            The job as it was seen last, and what its hashes say.

        Raises:
            ApiError: The service refuses, contradicts itself, or cannot be reached until the time is over.
        """
        try:
            looked = patience.until(lambda: self._look(waits=seconds > 0), self._settled, seconds)
            if looked[1].finding is Finding.MISMATCH and len(self._seen) < _SETTLED_LOOKS:
                patience.pause()
                looked = patience.until(self._look, self._settled, 0)
        except RestoreFetchError as exc:
            exc.files = exc.files or f"the whole archive is kept as {self._whole.path.name}"
            exc.next_step = exc.next_step or "run the same command again: it is not downloaded again"
            raise
        return looked

    def _look(self, *, waits: bool = False) -> tuple[RestoreJob, Judgement]:
        job = self._look_at_job()
        check_same(self._journal, job)
        state = self._journal.state
        judgement = rules.judge(job.hashes, self._whole.digest, rules.delivered_name(state.file, state.job.id))
        if judgement.finding is Finding.NOT_PUBLISHED and waits and not self._seen:
            self._observer.note("hash-wait", "waiting for the service to publish the hash")
        if judgement.finding is Finding.MISMATCH and not self._seen:
            self._observer.note("hash-differs", "a different hash is published; asking again", level="warning")
        self._seen.append(judgement)
        return job, judgement

    def _settled(self, looked: tuple[RestoreJob, Judgement]) -> bool:
        last = self._seen[-_SETTLED_LOOKS:]
        repeated = len(last) == _SETTLED_LOOKS and len(set(last)) == 1
        return rules.is_settled(looked[1], only_ours=self._only_ours, repeated=repeated)
