"""Whatever the services send and whatever somebody wrote into our files: our errors, or a right answer."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from restore_fetch import receipts, rules
from restore_fetch.errors import ApiError, RestoreFetchError, ServiceUnavailableError, StorageError
from restore_fetch.hashes import Digest
from restore_fetch.models import FileHash, RestoreJob
from restore_fetch.offer import Offer
from restore_fetch.records import JobRecord, Journal, Receipt, Record, Rejection
from restore_fetch.redaction import Secret, display_url
from restore_fetch.rules import Finding, JobIdentity
from restore_fetch.service import parse_job
from restore_fetch.service.auth import DigestKey
from restore_fetch.service.client import ApiClient, parse_object, read_error_body
from tests.mutation_support import mutations, texts
from tests.record_support import JOB_ID, NAME, SHA1, journal, receipt, rejection
from tests.support import ManualClock
from tests.test_models import DOCUMENTED

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
ACTUAL = Digest("SHA1", "a" * 40)
ENTRY = {"fileName": "x-1516661094.tar.gz", "hash": ACTUAL.hex, "typeName": "SHA1"}
ERROR_BODY = {"detail": "Not here.", "error": 404, "errorCode": "X", "parameters": ["a"], "reason": "Not Found"}


# --- job documents ---------------------------------------------------------------------------------------


@given(mutations(DOCUMENTED))
def test_a_mutated_job_document_is_our_error_or_decided_by_the_rules(content):
    try:
        document = parse_object(content)
        job = parse_job(document)
        rules.check_identity(DOCUMENTED["id"], DOCUMENTED["groupId"], job)
        ready = rules.is_ready(job)
    except RestoreFetchError as exc:
        event(type(exc).__name__)
        return
    event("ready" if ready else "not ready")
    said = document.get("content") if "statusName" not in document and "status" in document else document
    if ready:
        assert said["statusName"] == "FINISHED"
        assert said["delivery"]["statusName"] in ("READY", None) if "statusName" in said["delivery"] else True
        assert said["delivery"].get("methodName") in ("HTTP", None)
        assert said["delivery"].get("url") or said["delivery"].get("urlV2")
    check_the_rest_of_the_walk(job)


def check_the_rest_of_the_walk(job: RestoreJob) -> None:
    """Everything that a walk does with a job ends in a value or in one of our errors."""
    record = JobRecord.of(job)
    # Our files hold milliseconds, whatever the service's moments hold.
    assert JobRecord.model_validate_json(record.to_json()).to_json() == record.to_json()
    assert record.identity.contradiction(JobIdentity.of(job)) is None
    rules.show_status(job).encode()
    judgement = rules.judge(job.hashes, ACTUAL, ENTRY["fileName"])
    assert (judgement.finding is Finding.MATCH) == (judgement.published is not None and says(judgement.published))
    try:
        offer = Offer.of(job)
        rules.check_expiry(offer.delivery, NOW)
        rules.check_budget(offer.delivery, 1)
    except RestoreFetchError as exc:
        str(exc).encode()
        return
    assert offer.file_name == Path(offer.file_name).name
    assert offer.file_name.isascii()
    assert offer.file_name.endswith((".tar.gz", ".tgz", ".tar"))
    offer.record.to_json()
    display_url(offer.source.url).encode()


def says(published: FileHash) -> bool:
    """Whether an entry, read without the rules, is the SHA1 of our bytes."""
    kind = (published.type_name or "SHA1").strip().upper().replace("-", "")
    return kind == "SHA1" and (published.hash or "").strip().lower() == ACTUAL.hex


@given(
    mutations({"hashes": [ENTRY, ENTRY | {"hash": "b" * 40}]}), st.sampled_from([ENTRY["fileName"], "y.tar", None])
)
def test_mutated_hashes_match_only_with_a_well_formed_sha1_of_our_bytes(content, name):
    try:
        job = parse_job(parse_object(content))
    except ServiceUnavailableError:
        return
    judgement = rules.judge(job.hashes, ACTUAL, name)
    event(judgement.finding.value)
    if judgement.finding is Finding.MATCH:
        assert judgement.published in job.hashes
        assert says(judgement.published)
    if judgement.finding is Finding.MISMATCH:
        assert judgement.published in job.hashes
        assert not says(judgement.published)
        assert not any(says(entry) and entry.file_name == name for entry in job.hashes)


@given(st.binary(max_size=200) | texts().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_at_all_are_a_document_or_nonsense(content):
    with contextlib.suppress(ServiceUnavailableError):
        parse_job(parse_object(content))


# --- error bodies and headers ----------------------------------------------------------------------------


@given(mutations(ERROR_BODY))
def test_a_mutated_error_body_is_shown_as_plain_text_or_not_at_all(content):
    for text in read_error_body(content):
        assert text is None or (len(text) <= 300 and not any(ord(letter) < 32 for letter in text))
        (text or "").encode()


HEADER_TEXTS = st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n"), max_size=60)
DATES = st.sampled_from(
    [
        "Sat, 31 Jan 2026 12:00:00 GMT",
        "31 Dec 9999 23:59:59 -2359",
        "1 Jan 0001 0:0:0 +2359",
        "Jan 31 2026",
        "0",
        "-1",
    ]
)
CHALLENGES = st.sampled_from(
    [
        'Digest realm="r", nonce="n", qop="auth", algorithm=MD5',
        'Digest realm="r", nonce="n", qop="auth,auth-int", algorithm=SHA-256, stale=true, opaque="o"',
        'Basic realm="r", Digest realm="r", nonce="n"',
        "Digest ",
        "Digest realm=",
    ]
)


def mangled(whole: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A header as it should be, one with something cut out and put in, or anything at all."""

    def mangle(parts: tuple[str, int, int, str]) -> str:
        text, start, length, put = parts
        return text[: start % (len(text) + 1)] + put + text[start % (len(text) + 1) + length :]

    return (
        whole | st.tuples(whole, st.integers(0, 200), st.integers(0, 20), HEADER_TEXTS).map(mangle) | HEADER_TEXTS
    )


@given(mangled(DATES))
def test_retry_after_is_a_bounded_wait_or_none(value):
    seconds = rules.retry_after_seconds(value, NOW)
    assert seconds is None or 0 <= seconds <= 86400


@given(
    st.sampled_from([200, 201, 204, 206, 301, 302, 308, 400, 401, 403, 404, 410, 418, 429, 500, 503, 599, 999]),
    mutations(ERROR_BODY),
    st.fixed_dictionaries(
        {},
        optional={
            "Date": mangled(DATES),
            "Retry-After": mangled(DATES),
            "WWW-Authenticate": mangled(CHALLENGES),
            "Location": mangled(st.sampled_from(["https://h/x", "//h", "http://[::1", "/\x01"])),
            "Content-Encoding": mangled(st.sampled_from(["gzip", "identity", "br"])),
            "Content-Type": HEADER_TEXTS,
            "Set-Cookie": HEADER_TEXTS,
        },
    ),
)
def test_any_answer_to_a_request_is_a_document_or_our_error(status, content, headers):
    asked = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        assert "private-key" not in str(request.headers)
        given = [(name.encode(), value.strip().encode("latin-1")) for name, value in headers.items()]
        return httpx.Response(status, headers=given, stream=httpx.ByteStream(content))

    client = ApiClient(
        "https://ops.example.net",
        DigestKey("public", Secret("private-key")),
        tls=False,
        clock=ManualClock(NOW),
        user_agent="restore-fetch/test",
        transport=httpx.MockTransport(answer),
    )
    try:
        given_answer = client.get("/job", accept="application/json")
    except ApiError as exc:
        event(type(exc).__name__)
        said = str(exc)
    else:
        said = ""
        assert status in (200, 201)
        assert abs(given_answer.date.year - 2500) <= 500
    finally:
        client.close()
    assert asked <= 2
    assert "private-key" not in said


@given(texts(), texts())
@example("X-Key", "a\r\nHost: b")
def test_a_header_from_the_service_is_refused_or_cannot_change_the_request(name, value):
    try:
        rules.check_auth_header(name, value)
    except RestoreFetchError:
        return
    line = f"{name}: {value}"
    assert line.isascii()
    assert not any(letter in line for letter in "\r\n\x00")
    assert name.lower() not in ("host", "content-length", "transfer-encoding", "authorization", "cookie", "range")


@given(texts() | st.builds("https://h/{}".format, texts()) | st.builds("https://h/pull/{}.tar.gz".format, texts()))
def test_whatever_the_url_the_archive_stays_in_its_folder(url):
    name = rules.archive_name(url, JOB_ID)
    assert Path("/folder") / name == Path("/folder", Path(name).name)
    assert name[0] not in ".-"
    assert name.isascii()
    assert name.isprintable()


# --- our own files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("edited")


def read_back(path: Path, kind: type[Record], content: bytes) -> Record | None:
    path.write_bytes(content)
    try:
        return receipts.read_record(path, kind)
    except StorageError:
        return None


@given(content=mutations(json.loads(receipt().to_json())))
def test_an_edited_receipt_says_verified_only_with_the_published_hash_of_its_bytes(folder, content):
    found = read_back(folder / f"{NAME}.receipt.json", Receipt, content)
    event("believed" if found else "damaged")
    if isinstance(found, Receipt) and found.verdict == "verified":
        assert found.published_hash is not None
        assert found.published_hash.hash.strip().lower() == found.sha1
        assert found.checks.hash is True
    if found is not None:
        assert Receipt.model_validate_json(found.to_json()).to_json() == found.to_json()


@given(content=mutations(json.loads(journal(state="publishing", receipt=receipt()).to_json())))
def test_an_edited_journal_publishes_nothing_unproven_and_nowhere_else(folder, content):
    found = read_back(folder / f"{NAME}.part.json", Journal, content)
    event("believed" if found else "damaged")
    if not isinstance(found, Journal):
        return
    assert found.downloads_used <= len(found.attempts)
    assert Journal.model_validate_json(found.to_json()).to_json() == found.to_json()
    if found.receipt is not None:
        assert (found.receipt.file, found.receipt.job.id) == (found.file, found.job.id)
        assert found.receipt.verdict != "verified" or found.receipt.published_hash is not None


@given(content=mutations(json.loads(rejection().to_json())))
def test_an_edited_finding_never_verifies(folder, content):
    found = read_back(folder / f"{NAME}.rejected.json", Rejection, content)
    if isinstance(found, Rejection):
        assert found.verdict == "rejected"
        assert found.published_hash is None or found.published_hash.digest.algorithm == "SHA1"


@given(st.binary(max_size=100))
def test_a_digest_is_forty_hexadecimal_digits_or_none(raw):
    text = raw.decode("latin-1")
    try:
        digest = Digest.parse("SHA1", text)
    except ValueError:
        return
    assert digest.hex == text.strip().lower()
    assert int(digest.hex, 16) >= 0
    assert len(digest.hex) == 40


def test_the_documents_start_from_ones_that_are_believed():
    job = parse_job(parse_object(json.dumps(DOCUMENTED).encode()))
    assert rules.is_ready(job)
    assert rules.judge(job.hashes, ACTUAL, ENTRY["fileName"]).finding is Finding.MATCH
    assert Receipt.model_validate_json(receipt().to_json()).sha1 == SHA1
    with pytest.raises(ValidationError):
        receipt(sha1="b" * 40)
