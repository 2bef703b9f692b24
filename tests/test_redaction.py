"""Secrets stay out of every text, in each form they could appear in."""

from __future__ import annotations

import base64
import traceback
from urllib.parse import quote

import pytest

from restore_fetch import redaction
from restore_fetch.redaction import Secret, display_url, plain, remember, remember_url, scrub

KEY = "p/k+ey=with?odd characters\u00e4"


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        quote(KEY),
        quote(KEY, safe=""),
        "p/k%2bey%3dwith%3fodd%20characters%c3%a4",
        "p%2fk%2bey%3dwith%3fodd%20characters%c3%a4",
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode(),
    ],
)
def test_a_secret_is_taken_out_in_each_of_its_forms(form):
    Secret(KEY)
    assert scrub(f"before {form} after {form}") == "before *** after ***"


def test_a_secret_shows_itself_to_nobody_but_who_asks():
    secret = Secret(KEY)
    for text in (str(secret), repr(secret), f"{secret}", f"{secret}", repr([secret]), repr({"key": secret})):
        assert KEY not in text
        assert "***" in text
    assert secret.reveal() == KEY
    assert secret == Secret(KEY)
    assert secret != KEY
    assert len({secret, Secret(KEY)}) == 1


def test_a_traceback_does_not_show_a_secret():
    secret = Secret(KEY)
    try:
        raise ValueError(secret)
    except ValueError:
        assert KEY not in traceback.format_exc()


def test_of_two_secrets_the_longer_goes_first_so_that_nothing_of_it_is_left():
    Secret("abcd")
    Secret("abcd-and-more")
    assert scrub("abcd-and-more, abcd") == "***, ***"


def test_what_is_too_short_for_a_secret_does_not_blank_out_words():
    Secret("")
    Secret("a")
    Secret("the")
    assert scrub("a line of the log") == "a line of the log"


def test_half_a_character_in_a_secret_from_the_environment_is_no_trouble():
    Secret("key-\udce4-key")
    assert scrub("key-\udce4-key") == "***"


def test_the_key_in_a_delivery_url_is_learnt():
    remember_url(
        "https://user:pass-word@h:8443/backup/pull/0123456789abcdef/5a66%2Fverylong/x.tar.gz?sig=abc%2Bdef"
    )
    said = scrub("GET /backup/pull/0123456789abcdef/5a66%2Fverylong/x.tar.gz?sig=abc%2Bdef pass-word 5a66/verylong")
    assert said == "GET /backup/pull/***/***/x.tar.gz?*** *** ***"


def test_ordinary_parts_of_a_url_stay_readable():
    remember_url("https://backup.example.net/backup/restore/v2/pull/6b77893b80eef5354c77ee15/x.tar.gz")
    text = "job 6b77893b80eef5354c77ee15: backup, restore, v2 and pull of x.tar.gz from backup.example.net"
    assert scrub(text) == text


def test_what_is_no_url_is_said_to_be_none():
    with pytest.raises(ValueError):
        remember_url("https://[half/key-0123456789/x.tar.gz")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/key/x.tar.gz", "https://h/…/x.tar.gz"),
        ("https://user:word@h:8443/a/key/x.tar.gz?sig=key#key", "https://h:8443/…/x.tar.gz"),
        ("http://[::1]:80/key/x.tar.gz", "http://[::1]:80/…/x.tar.gz"),
        ("https://h:99999/key/x.tar.gz", "https://h/…/x.tar.gz"),
        ("nothing", "://?/…/nothing"),
    ],
)
def test_a_url_is_shown_by_its_host_and_file(url, shown):
    assert display_url(url) == shown


@pytest.mark.parametrize("bad", ["\x00", "\x1b", "\r", "\n", "\x7f", "\x9b", "\u2028", "\u202e", "\ud800"])
def test_what_could_rewrite_a_terminal_is_replaced(bad):
    assert plain(f"a{bad}b") == "a\ufffdb"


def test_ordinary_text_of_any_script_stays_as_it_is():
    text = "Ünïcödé \U0001f40b 集群 кластер"
    assert plain(text) == text


def test_each_test_begins_without_secrets():
    assert redaction._known == set()
    remember("a secret of this test")
