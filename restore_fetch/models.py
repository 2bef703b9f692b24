"""What the service says, as values: the response elements of the legacy restore job resource.

Any element may be missing or null, and new statuses appear: every field is optional, statuses are strings,
unknown elements are ignored. What is present must have its documented type. Source: the Atlas API page "Get
One Legacy Backup Restore Job", and the schemas BackupRestoreJob, BackupRestoreJobDelivery and
RestoreJobFileHash of the Atlas Admin API v2.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel

from restore_fetch.redaction import remember, remember_url


def _in_utc(moment: datetime) -> datetime:
    # The service writes UTC with a Z; a moment without an offset can only be meant so, too.
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError("a moment outside the calendar") from exc


def _encodable(text: str) -> str:
    # Half a surrogate pair passes for a string in JSON, and can then be neither printed nor written.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ValueError("text with half a character") from exc
    return text


def _nothing_if_empty(value: Any) -> Any:
    return None if value == "" else value


def _empty_if_null(value: Any) -> Any:
    return () if value is None else value


def _date_of_timestamp(value: object) -> object:
    """The date in `{date, increment}`; a plain date stays."""
    return _nothing_if_empty(value.get("date") if isinstance(value, dict) else value)


def _known_secret(value: SecretStr) -> SecretStr:
    remember(_encodable(value.get_secret_value()))
    return value


def _known_secret_url(value: SecretStr) -> SecretStr:
    remember_url(_encodable(value.get_secret_value()))
    return value


Moment = Annotated[datetime, AfterValidator(_in_utc)]
SecretText = Annotated[SecretStr, AfterValidator(_known_secret)]
SecretUrl = Annotated[SecretStr, AfterValidator(_known_secret_url)]
Text = Annotated[str, AfterValidator(_encodable)]
OptionalText = Annotated[Text | None, BeforeValidator(_nothing_if_empty)]


class Element(BaseModel):
    """A JSON object of the API: immutable, camelCase on the wire, unknown elements ignored."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


class Link(Element):
    """A link to a related resource; `href` may be empty."""

    href: Text | None = None
    rel: Text | None = None


class FileHash(Element):
    """One entry of `hashes`: present only after the file has been downloaded.

    Attributes:
        file_name: The file that has been hashed.
        hash: The hash, as the service wrote it.
        type_name: The algorithm; `SHA1` if present.
    """

    file_name: OptionalText = None
    hash: OptionalText = None
    type_name: OptionalText = None


class OplogTimestamp(Element):
    """The last oplog entry in the snapshot; `increment` is documented as a string and sent as a number."""

    date: Moment | None = None
    increment: int | Text | None = None


class Delivery(Element):
    """How the archive can be had.

    Attributes:
        url: Where from; the verification key is in its path, so it is a secret.
        url_v2: Where from, without the key; wants `auth_header: auth_value` in the request.
        expires: When the URL stops working, by the service's clock.
        max_downloads: How often the URL can be used; 2147483647 means without limit.
    """

    method_name: Text | None = None
    status_name: Text | None = None
    url: Annotated[SecretUrl | None, BeforeValidator(_nothing_if_empty)] = None
    url_v2: Annotated[SecretUrl | None, BeforeValidator(_nothing_if_empty)] = Field(None, alias="urlV2")
    auth_header: OptionalText = None
    auth_value: Annotated[SecretText | None, BeforeValidator(_nothing_if_empty)] = None
    expires: Annotated[Moment | None, BeforeValidator(_nothing_if_empty)] = None
    expiration_hours: int | float | None = None
    max_downloads: int | None = None


class RestoreJob(Element):
    """One restore job, as one look at the service showed it.

    Attributes:
        replica_set_name: What the archive is of; only Cloud Backup tells it, and only for a sharded cluster.
    """

    id: Text | None = None
    status_name: Text | None = None
    delivery: Delivery | None = None
    hashes: Annotated[tuple[FileHash, ...], BeforeValidator(_empty_if_null)] = ()
    batch_id: OptionalText = None
    snapshot_id: OptionalText = None
    group_id: OptionalText = None
    cluster_id: OptionalText = None
    cluster_name: OptionalText = None
    host_id: OptionalText = None
    replica_set_name: OptionalText = None
    created: Annotated[Moment | None, BeforeValidator(_nothing_if_empty)] = None
    point_in_time: bool | None = None
    timestamp: OplogTimestamp | None = None
    encryption_enabled: bool | None = None
    master_key_uuid: OptionalText = Field(None, alias="masterKeyUUID")
    links: Annotated[tuple[Link, ...], BeforeValidator(_empty_if_null)] = ()


class SnapshotPart(Element):
    """What a snapshot holds of one replica set: of the only one, of a shard, or of the config servers.

    Attributes:
        cluster_id: The replica set's own id, which a restore job of it shows as its `clusterId`.
        replica_set_name: Its name.
        type_name: `REPLICA_SET` or `CONFIG_SERVER_REPLICA_SET`.
    """

    cluster_id: OptionalText = None
    replica_set_name: OptionalText = None
    type_name: OptionalText = None
    encryption_enabled: bool | None = None
    master_key_uuid: OptionalText = Field(None, alias="masterKeyUUID")


class Snapshot(Element):
    """One snapshot of a whole cluster, as the service listed it.

    Attributes:
        created: When it was taken; legacy services say it as the timestamp of an oplog entry.
        complete: False while the service is still making it.
        expires: When the service deletes it.
        parts: What it holds, one for each replica set.
    """

    id: str | None = None
    created: Annotated[Moment | None, BeforeValidator(_date_of_timestamp)] = None
    complete: bool | None = None
    expires: Annotated[Moment | None, BeforeValidator(_nothing_if_empty)] = None
    cluster_id: OptionalText = None
    cluster_name: OptionalText = None
    group_id: OptionalText = None
    do_not_delete: bool | None = None
    parts: Annotated[tuple[SnapshotPart, ...], BeforeValidator(_empty_if_null)] = ()
