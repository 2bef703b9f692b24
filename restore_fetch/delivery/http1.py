"""One GET over HTTP/1.1, down to the socket, so that an archive can be received into reused buffers.

Heads are written and read by h11 (RFC 9112); the body is left on the socket for `body`. The client knows no
credentials of the API. It follows redirects, but never takes `authValue` to another origin, and never leaves
https for http. Proxies come from the environment.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import urllib.request
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import h11
import httpx

from restore_fetch import network
from restore_fetch.clock import SystemClock
from restore_fetch.errors import ConfigurationError, DownloadInterruptedError, DownloadRefusedError
from restore_fetch.redaction import display_url, plain, remember
from restore_fetch.rules import is_private_host

_CONNECT_SECONDS = 30.0
_HEAD_RECEIVE_BYTES = 16 * 1024
_MOST_REDIRECTS = 5
_LAST_PORT = 65535
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_URL_NEXT_STEP = (
    "the service would name the same URL again: check --base-url and what stands in between, "
    "or start a new restore job"
)
_REDIRECT_NEXT_STEP = "check what stands in between, or start a new restore job"
_REAL_TIME = SystemClock()  # a socket's time limits know no other


@dataclass(frozen=True)
class Source:
    """Where an archive is, and the header that opens it.

    Attributes:
        url: The URL; a secret.
        auth: The header's name and its value, a secret; None when the URL says all.
    """

    url: str = field(repr=False)
    auth: tuple[str, str] | None = field(default=None, repr=False)


@dataclass
class Response:
    """The head of an answer, with the socket its body is still on.

    Attributes:
        status: The HTTP status.
        headers: The headers, names in lower case; the values of a repeated one joined with commas.
        leftover: The first bytes of the body, received along with the head.
        sock: Where the rest comes from. Whoever holds the response closes it.
        host: Who answered, for people.
    """

    status: int
    headers: dict[str, str] = field(repr=False)
    leftover: bytes = field(repr=False)
    sock: socket.socket
    host: str

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, at once and whatever state the transfer is in."""
        with contextlib.suppress(OSError):
            self.sock.close()


class DeliveryClient:
    """Opens deliveries.

    Args:
        tls: Whom to trust.
        allow_http: Whether plain HTTP is accepted beyond this machine and private networks.
        user_agent: What the client calls itself.
        head_seconds: How long an answer may take to begin.
    """

    def __init__(self, tls: ssl.SSLContext, *, allow_http: bool, user_agent: str, head_seconds: float) -> None:
        self._tls = tls
        self._allow_http = allow_http
        self._user_agent = user_agent
        self._head_seconds = head_seconds

    def open(self, source: Source, *, offset: int = 0, etag: str | None = None) -> Response:
        """Ask for an archive, or for the rest of one.

        Args:
            source: Where it is.
            offset: How many of its bytes are here already.
            etag: The strong validator of those bytes; needed for an offset other than 0.

        Returns:
            The head of the answer, whatever its status, unless it was a redirect that could be followed.

        Raises:
            DownloadInterruptedError: The host cannot be reached, or broke off before the head was complete.
            DownloadRefusedError: A redirect or a host that must not be followed, or no valid HTTP.
            ConfigurationError: A proxy of the environment cannot be used.
        """
        url = _parse_url(source.url)
        auth = source.auth
        for hop in range(1 + _MOST_REDIRECTS):
            try:
                self._check_scheme(url)
                response = self._ask(url, auth, offset, etag)
            except DownloadInterruptedError as exc:
                exc.sent = exc.sent or hop > 0  # whoever redirected has seen the request, and may have counted it
                raise
            except ConfigurationError as exc:
                if hop == 0:
                    raise
                raise _refused_redirect(f"{exc.what}, and the delivery redirects to where it is needed") from exc
            if response.status not in _REDIRECTS or "location" not in response.headers:
                return response
            response.close()
            target = _join(url, response.headers["location"])
            if url.scheme == "https" and target.scheme != "https":
                raise _refused_redirect(f"{response.host} redirects from https to {target.scheme}")
            if _origin(target) != _origin(url):
                auth = None
            url = target
        raise _refused_redirect(f"{url.host} redirects without end")

    def exposes(self, source: Source) -> bool:
        """Whether an archive would cross a public network in the clear, because that was allowed.

        Raises:
            DownloadRefusedError: Its URL is malformed.
        """
        url = _parse_url(source.url)
        return self._allow_http and url.scheme == "http" and not is_private_host(url.host)

    def _check_scheme(self, url: httpx.URL) -> None:
        if url.scheme not in ("http", "https") or not url.host:
            raise _refused_url("the delivery's URL is neither http nor https")
        if url.scheme == "http" and not self._allow_http and not is_private_host(url.host):
            raise _refused_url(
                f"the delivery is plain http from {url.host}, which is not a loopback or private address",
                "use --allow-http if the network in between can be trusted",
            )

    def _ask(self, url: httpx.URL, auth: tuple[str, str] | None, offset: int, etag: str | None) -> Response:
        host = display_url(f"{url.scheme}://{url.netloc.decode('ascii')}/").split("/")[2]
        proxy = _proxy_for(url)
        sock = self._connect(url, proxy, host)
        try:
            headers = [
                ("Host", url.netloc.decode("ascii")),
                ("Accept", "*/*"),
                ("Accept-Encoding", "identity"),
                ("Connection", "close"),
                ("User-Agent", self._user_agent),
            ]
            if auth is not None:
                headers.append(auth)
            if offset > 0 and etag is not None:
                headers += [("Range", f"bytes={offset}-"), ("If-Range", etag)]
            target = url.raw_path
            if proxy is not None and url.scheme == "http":
                target = url.raw_scheme + b"://" + url.netloc + url.raw_path
                headers += _proxy_headers(proxy)
            return self._exchange(sock, h11.Request(method="GET", target=target, headers=headers), host)
        except BaseException:
            sock.close()
            raise

    def _exchange(self, sock: socket.socket, request: h11.Request, host: str) -> Response:
        connection = h11.Connection(h11.CLIENT)
        deadline = _REAL_TIME.monotonic() + self._head_seconds
        try:
            sock.settimeout(self._head_seconds)
            sock.sendall(connection.send(request) + connection.send(h11.EndOfMessage()))
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    sock.settimeout(_seconds_left(deadline))
                    connection.receive_data(sock.recv(_HEAD_RECEIVE_BYTES))
                elif isinstance(event, h11.Response):
                    break
                elif not isinstance(event, h11.InformationalResponse):
                    raise DownloadInterruptedError(f"{host} hung up without an answer", outcome="no answer")
        except h11.RemoteProtocolError as exc:
            received, ended = connection.trailing_data
            if ended and b"HTTP/".startswith(received[:5]):
                raise DownloadInterruptedError(f"{host} hung up without an answer", outcome="no answer") from exc
            raise DownloadRefusedError(f"{host} does not answer in valid HTTP", outcome="invalid HTTP") from exc
        except TimeoutError as exc:
            raise DownloadInterruptedError(
                f"{host} did not begin to answer in {self._head_seconds:.0f} s", outcome="no answer"
            ) from exc
        except OSError as exc:
            raise DownloadInterruptedError(f"{host} broke off: {_reason(exc)}", outcome="no answer") from exc
        headers: dict[str, str] = {}
        for raw_name, raw_value in event.headers:
            name, value = raw_name.decode("ascii"), plain(raw_value.decode("latin-1"))
            # None of them may hide behind another of its name (RFC 9110, section 5.3).
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Response(event.status_code, headers, connection.trailing_data[0], sock, host)

    def _connect(self, url: httpx.URL, proxy: httpx.URL | None, host: str) -> socket.socket:
        through = f" through the proxy {proxy.host}" if proxy is not None else ""
        near = proxy or url
        try:
            sock = socket.create_connection((near.host, near.port or _default_port(near)), timeout=_CONNECT_SECONDS)
        except (OSError, UnicodeError) as exc:
            raise DownloadInterruptedError(
                f"{host} cannot be reached{through}: {_reason(exc)}", outcome="unreachable", sent=False
            ) from exc
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if url.scheme == "http":
                return sock
            if proxy is not None:
                self._tunnel(sock, url, proxy, host)
                sock.settimeout(_CONNECT_SECONDS)
            # Python hides an end of stream without close_notify unless it is told not to; it may be a cut.
            return self._tls.wrap_socket(sock, server_hostname=url.host, suppress_ragged_eofs=False)
        except (OSError, ValueError) as exc:  # the latter for a name that cannot be in a certificate
            sock.close()
            if reason := network.distrust(host, exc):
                raise DownloadRefusedError(
                    reason, outcome="not trusted", sent=False, next_step=network.DISTRUST_NEXT_STEP
                ) from exc
            raise DownloadInterruptedError(
                f"no secure connection to {host}{through}: {_reason(exc)}", outcome="unreachable", sent=False
            ) from exc
        except BaseException:
            sock.close()
            raise

    def _tunnel(self, sock: socket.socket, url: httpx.URL, proxy: httpx.URL, host: str) -> None:
        authority = f"{url.netloc.decode('ascii')}" if url.port else f"{url.netloc.decode('ascii')}:443"
        request = h11.Request(
            method="CONNECT", target=authority, headers=[("Host", authority), *_proxy_headers(proxy)]
        )
        try:
            response = self._exchange(sock, request, proxy.host)
        except DownloadInterruptedError as exc:
            exc.sent = False  # the proxy was spoken to, the delivery was not
            raise
        if response.status != 200 or response.leftover:
            raise DownloadInterruptedError(
                f"the proxy {proxy.host} does not connect to {host} (status {response.status})",
                outcome="unreachable",
                sent=False,
                next_step="check HTTPS_PROXY and NO_PROXY",
            )


def _seconds_left(deadline: float) -> float:
    left = deadline - _REAL_TIME.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _parse_url(text: str) -> httpx.URL:
    try:
        return _checked(httpx.URL(text))
    except (httpx.InvalidURL, ValueError) as exc:
        raise _refused_url("the delivery's URL is malformed") from exc


def _join(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return _checked(url.join(location))
    except (httpx.InvalidURL, ValueError) as exc:
        raise _refused_redirect(f"{url.host} redirects to no URL") from exc


def _refused_url(what: str, next_step: str = _URL_NEXT_STEP) -> DownloadRefusedError:
    return DownloadRefusedError(what, outcome="refused URL", sent=False, next_step=next_step)


def _refused_redirect(what: str) -> DownloadRefusedError:
    return DownloadRefusedError(what, outcome="refused redirect", next_step=_REDIRECT_NEXT_STEP)


def _checked(url: httpx.URL) -> httpx.URL:
    """The URL, when the parts that httpx decodes or bounds only later make sense, too.

    Raises:
        ValueError: Its host cannot be decoded or shown, or there is no such port.
    """
    if not url.host.isprintable() or (url.port or 0) > _LAST_PORT:
        raise ValueError("there is no such host or port")
    return url


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or _default_port(url)


def _default_port(url: httpx.URL) -> int:
    return 443 if url.scheme == "https" else 80


def _proxy_for(url: httpx.URL) -> httpx.URL | None:
    """The proxy that the environment names for a URL: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, less `NO_PROXY`."""
    proxies = urllib.request.getproxies()
    text = proxies.get(url.scheme) or proxies.get("all")
    if not text or urllib.request.proxy_bypass(url.netloc.decode("ascii")):
        return None
    try:
        proxy = _checked(httpx.URL(text if "://" in text else f"http://{text}"))
    except (httpx.InvalidURL, ValueError) as exc:
        raise ConfigurationError("the proxy named in the environment is no URL") from exc
    if proxy.scheme != "http" or not proxy.host:
        raise ConfigurationError("the proxy named in the environment is not an http:// one: it cannot be used")
    remember(proxy.password)
    return proxy


def _proxy_headers(proxy: httpx.URL) -> list[tuple[str, str]]:
    if not proxy.username and not proxy.password:
        return []
    token = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode("ascii")
    remember(token)
    return [("Proxy-Authorization", f"Basic {token}")]


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):
        return plain(exc.reason or type(exc).__name__)
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return plain(str(exc)) or type(exc).__name__
