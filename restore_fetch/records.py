"""The documents this tool writes: receipts, journals and findings, as immutable values.

They are read back with suspicion: somebody may have edited them by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from restore_fetch.clock import iso
from restore_fetch.hashes import SHA1, Digest
from restore_fetch.models import FileHash, Moment, RestoreJob
from restore_fetch.rules import JobIdentity

RECEIPT_SCHEMA: Final = "restore-fetch/receipt/v1"
JOURNAL_SCHEMA: Final = "restore-fetch/journal/v1"
REJECTION_SCHEMA: Final = "restore-fetch/rejection/v1"
BATCH_SCHEMA: Final = "restore-fetch/batch-receipt/v1"
PULL_SCHEMA: Final = "restore-fetch/pull/v1"
NOT_SENT = "not sent"
COMPLETE = "complete"
STRUCTURE_PROVES: Final = (
    "the archive is whole: gzip CRC and tar structure; no hash was published, so nothing proves that these are the "
    "bytes the service made"
)
PLAIN_STRUCTURE_PROVES: Final = (
    "the archive is whole by its tar structure, which has no checksum of the contents; no hash was published, so "
    "nothing proves that these are the bytes the service made"
)
BATCH_STRUCTURE_PROVES: Final = (
    "whole; not for each was a hash published, so nothing proves that they are what the service made"
)

Verdict = Literal["unverified", "structure", "verified"]  # what speaks for a published archive, the weakest first
_ONLY_WITH_STRUCTURE = frozenset({"proves", "archive"})

Stamp = Annotated[Moment, PlainSerializer(iso, return_type=str)]
Sha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Size = Annotated[int, Field(ge=0, lt=2**63)]


def weakest(verdicts: Iterable[Verdict]) -> Verdict:
    """What can be said of several archives together; where there is none, nothing is proved."""
    return min(verdicts, key=get_args(Verdict).index, default="unverified")


class Record(BaseModel):
    """A JSON object in one of our files; elements of a later version are ignored."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    def to_json(self) -> bytes:
        """The document as it is written: indented, with a last newline."""
        return self.model_dump_json(indent=2).encode("utf-8") + b"\n"


class Attempt(Record):
    """One request for the archive.

    Attributes:
        started: When the request was about to be sent.
        ended: When it was over; None when the process ended first.
        bytes: How many bytes of the archive were on disk then.
        resumed_from: How many of them were there before.
        outcome: `complete`, or what broke it off; None when the process ended first.
    """

    started: Stamp
    ended: Stamp | None = None
    bytes: Size = 0
    resumed_from: Size = 0
    outcome: str | None = None

    @property
    def may_count(self) -> bool:
        """Whether the service may have counted it as one of the downloads it allows."""
        return self.outcome != NOT_SENT


class PublishedHash(Record):
    """The entry of `hashes` that the bytes were compared with."""

    type_name: str | None
    file_name: str | None
    hash: str

    @model_validator(mode="after")
    def _is_a_hash(self) -> Self:
        Digest.parse(self.type_name or SHA1, self.hash)
        return self

    @property
    def digest(self) -> Digest:
        """The hash as a digest."""
        return Digest.parse(self.type_name or SHA1, self.hash)

    @classmethod
    def of(cls, entry: FileHash) -> PublishedHash:
        """The record of an entry that has a hash."""
        return cls(type_name=entry.type_name, file_name=entry.file_name, hash=entry.hash or "")


class Checks(Record):
    """What was checked: true or false when it was, null when it was not."""

    length: bool | None = None
    hash: bool | None = None
    gzip: bool | None = None
    tar: bool | None = None


class ArchiveRecord(Record):
    """What is in an archive, as its headers say.

    Attributes:
        members: Files, folders and links.
        unpacked_bytes: How long the tar file in it is.
        restore_info: What `restoreInfo.txt` says; null when there is no such file.
        data_directory: Whether there are the files that make a folder a data directory of WiredTiger.
        outside: The first few members that would be written, or point, outside the folder they are unpacked in.
        outside_count: How many of those there are.
    """

    members: Size
    unpacked_bytes: Size
    restore_info: dict[str, str] | None = None
    data_directory: bool = False
    outside: tuple[str, ...] = ()
    outside_count: Size = 0


class TimestampRecord(Record):
    """The last oplog entry in the snapshot."""

    date: Stamp | None = None
    increment: int | str | None = None


class JobRecord(Record):
    """The restore job an archive came from."""

    id: str
    batch_id: str | None = None
    snapshot_id: str | None = None
    group_id: str | None = None
    cluster_id: str | None = None
    cluster_name: str | None = None
    created: Stamp | None = None
    point_in_time: bool | None = None
    timestamp: TimestampRecord | None = None
    encryption_enabled: bool | None = None
    master_key_uuid: str | None = None

    @classmethod
    def of(cls, job: RestoreJob) -> JobRecord:
        """The record of a job document."""
        stamp = job.timestamp
        return cls(
            id=(job.id or "").lower(),
            batch_id=job.batch_id,
            snapshot_id=job.snapshot_id,
            group_id=job.group_id,
            cluster_id=job.cluster_id or job.host_id,
            cluster_name=job.cluster_name,
            created=job.created,
            point_in_time=job.point_in_time,
            timestamp=TimestampRecord(date=stamp.date, increment=stamp.increment) if stamp else None,
            encryption_enabled=job.encryption_enabled,
            master_key_uuid=job.master_key_uuid,
        )

    @property
    def identity(self) -> JobIdentity:
        """What must not change between two looks at the job."""
        return JobIdentity(self.id, self.group_id, self.cluster_id, self.snapshot_id, self.batch_id)


class DeliveryRecord(Record):
    """Where the archive came from; never the URL, which is a secret."""

    host: str | None = None
    expires: Stamp | None = None
    max_downloads: int | None = None


class Seconds(Record):
    """How long the parts of the last run took."""

    waiting: float = 0.0
    downloading: float = 0.0
    verifying: float = 0.0


class Receipt(Record):
    """The evidence that goes with an archive; written last of all, so that its presence says the rest is done.

    Attributes:
        verdict: `verified` by the published hash; `structure` where the service publishes none, but the archive was
            found to be whole by its own checksums; else `unverified`.
        proves: What a verdict of `structure` says and does not say, in a sentence; null for the others.
        archive: What is in it; null when its structure was not checked.
    """

    schema_: Literal["restore-fetch/receipt/v1"] = Field(RECEIPT_SCHEMA, alias="schema")
    verdict: Verdict
    proves: str | None = None
    file: str
    bytes: Size
    sha1: Sha1
    published_hash: PublishedHash | None
    checks: Checks
    archive: ArchiveRecord | None = None
    job: JobRecord
    delivery: DeliveryRecord
    attempts: tuple[Attempt, ...]
    started: Stamp
    finished: Stamp
    seconds: Seconds
    service: str
    tool: str

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        same = self.published_hash is not None and self.published_hash.digest == self.digest
        proven = same and self.checks.hash is True
        if proven != (self.verdict == "verified"):
            raise ValueError("the verdict is not what the hashes say")
        if self.verdict == "structure" and (
            self.published_hash or self.checks.hash is not None or not self._is_whole
        ):
            raise ValueError("the verdict is not what the checks of the structure say")
        if False in (self.checks.gzip, self.checks.tar):
            raise ValueError("a damaged archive has no receipt")
        return self

    @model_serializer(mode="wrap")
    def _without_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = handler(self)
        return {
            key: value for key, value in document.items() if value is not None or key not in _ONLY_WITH_STRUCTURE
        }

    @property
    def _is_whole(self) -> bool:
        unpacked = self.checks.gzip is None and self.file.endswith(".tar")
        return self.checks.tar is True and (self.checks.gzip is True or unpacked) and self.archive is not None

    @property
    def digest(self) -> Digest:
        """The SHA1 of the archive."""
        return Digest(SHA1, self.sha1)


class Journal(Record):
    """What is known about an archive that is not published yet.

    Attributes:
        state: `downloading`; `whole` once every byte is on disk and its SHA1 known; `publishing` from the moment
            the verdict is certain.
        file: The name the archive will have.
        etag: The strong validator of the bytes so far, when the delivery gave one.
        total_bytes: The whole length, when the delivery gave one.
        durable_bytes: How many bytes are certain to have reached the disk.
        boot_id: Which boot of the machine wrote the bytes: they are all there as long as it is the same.
        sha1: Of the whole archive, from the state `whole` on.
        attempts: Every request for the archive recorded here, earlier runs included.
        receipt: What will be published, in the state `publishing`.
    """

    schema_: Literal["restore-fetch/journal/v1"] = Field(JOURNAL_SCHEMA, alias="schema")
    state: Literal["downloading", "whole", "publishing"] = "downloading"
    file: str
    job: JobRecord
    delivery: DeliveryRecord
    etag: str | None = None
    total_bytes: Size | None = None
    durable_bytes: Size = 0
    boot_id: str | None = None
    sha1: Sha1 | None = None
    attempts: tuple[Attempt, ...] = ()
    receipt: Receipt | None = None

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    @model_validator(mode="after")
    def _publishes_its_own(self) -> Self:
        if self.receipt is not None and (self.receipt.file, self.receipt.job.id) != (self.file, self.job.id):
            raise ValueError("the receipt is of another archive")
        return self

    @property
    def downloads_used(self) -> int:
        """How many of the downloads allowed may be used up by the attempts made from here."""
        return sum(attempt.may_count for attempt in self.attempts)


class Rejection(Record):
    """Why the bytes beside it are not the archive."""

    schema_: Literal["restore-fetch/rejection/v1"] = Field(REJECTION_SCHEMA, alias="schema")
    verdict: Literal["rejected"] = "rejected"
    finding: str
    file: str
    bytes: Size
    sha1: Sha1
    published_hash: PublishedHash | None
    job: JobRecord
    delivery: DeliveryRecord
    attempts: tuple[Attempt, ...]
    found: Stamp
    service: str
    tool: str

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)


class BatchMember(Record):
    """Which part of a sharded cluster is which file.

    Attributes:
        member: Its name, as the delivered file begins: `Cluster0-shard-1`, `Cluster0-config-0`.
        type_name: `REPLICA_SET` for a shard, `CONFIG_SERVER_REPLICA_SET` for the config servers; null when the name
            of the file does not tell.
        cluster_id: The id of the shard or the config servers.
    """

    member: str
    type_name: str | None = None
    cluster_id: str | None = None
    job_id: str
    file: str
    bytes: Size
    sha1: Sha1


class BatchReceipt(Record):
    """The evidence that every part of a sharded cluster is here and verified.

    Attributes:
        verdict: `structure` as soon as one of them is that, in place of verified.
        snapshot_id: The snapshot that all parts are of; null when each part has its own and none was asked for.
        members: In the order of job ids.
    """

    schema_: Literal["restore-fetch/batch-receipt/v1"] = Field(BATCH_SCHEMA, alias="schema")
    verdict: Literal["verified", "structure"] = "verified"
    batch_id: str
    snapshot_id: str | None = None
    group_id: str | None = None
    cluster_name: str | None = None
    members: tuple[BatchMember, ...]
    finished: Stamp
    service: str
    tool: str

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    @property
    def proved(self) -> str:
        """What is proved of the parts, in words."""
        return "verified" if self.verdict == "verified" else BATCH_STRUCTURE_PROVES


class PullJournal(Record):
    """What a pull asked the service to make, so that the next one does not ask again.

    Attributes:
        requested: When, by the service's clock; written before it is asked.
        job_ids: What it answered; none while no answer has come.
    """

    schema_: Literal["restore-fetch/pull/v1"] = Field(PULL_SCHEMA, alias="schema")
    snapshot_id: str
    requested: Stamp
    job_ids: tuple[str, ...] = ()
    batch_id: str | None = None

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)
