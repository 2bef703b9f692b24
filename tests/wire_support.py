"""Servers that say, byte for byte, what a test tells them to, and remember what they were asked."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self
from urllib.request import parse_http_list, parse_keqv_list

import trustme
from werkzeug import Request, Response

from restore_fetch.network import tls_context

_PATIENCE_SECONDS = 10.0

# --- certificates ----------------------------------------------------------------------------------------


@functools.cache
def authority() -> trustme.CA:
    """The only certificate authority that `client_tls` adds to the system's."""
    return trustme.CA()


@functools.cache
def server_tls(*names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*(names or ("localhost", "127.0.0.1"))).configure_cert(context)
    return context


@functools.cache
def client_tls() -> ssl.SSLContext:
    context = tls_context(None)
    authority().configure_trust(context)
    return context


# --- connections -----------------------------------------------------------------------------------------


class Peer:
    """The server's side of one connection."""

    def __init__(self, sock: socket.socket, heads: list[str]) -> None:
        self.sock = sock
        self._heads = heads
        self.sock.settimeout(_PATIENCE_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def head(self) -> str:
        """Read the head of a request, and remember it; an empty one when the client hangs up instead."""
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            byte = self.sock.recv(1)
            if not byte:
                return ""
            received += byte
        self._heads.append(received.decode("latin-1"))
        return self._heads[-1]

    def send(self, data: bytes, *, piece: int | None = None, pause: float = 0.0) -> None:
        """Send bytes, all at once or in pieces."""
        for start in range(0, len(data), piece or max(1, len(data))):
            self.sock.sendall(data[start : start + (piece or len(data))])
            time.sleep(pause)

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.sock = context.wrap_socket(self.sock, server_side=True)

    def wait_for_hang_up(self) -> None:
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass

    def end(self) -> None:
        """Close as the protocols want it: close_notify first over TLS, and no reset."""
        with contextlib.suppress(OSError):
            if isinstance(self.sock, ssl.SSLSocket):
                self.sock.unwrap()
            else:
                self.sock.shutdown(socket.SHUT_WR)
                self.wait_for_hang_up()
        self.sock.close()

    def cut(self) -> None:
        """Close the connection under TLS, without close_notify; a plain FIN without TLS."""
        with contextlib.suppress(OSError):
            # Below the TLS layer, so that it has no say.
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
        self.sock.close()

    def reset(self) -> None:
        """Break the connection off with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Script = Callable[[Peer], None]


def says(*parts: bytes, then: str = "end", piece: int | None = None, pause: float = 0.0) -> Script:
    """A script: read a request, say this, and then `end`, `cut`, `reset` or `wait_for_hang_up`."""

    def script(peer: Peer) -> None:
        if peer.head():
            peer.send(b"".join(parts), piece=piece, pause=pause)
            getattr(peer, then)()

    return script


class WireServer:
    """Plays one script a connection, the last one again and again.

    Attributes:
        heads: The head of every request, in the order they were read.
        connections: How many connections were accepted.
    """

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self.port: int = self._listener.getsockname()[1]
        self.heads: list[str] = []
        self.connections = 0

    def url(self, path: str = "/key-in-the-path-0123456789/archive.tar.gz") -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(_PATIENCE_SECONDS)
        if self._failures and error is None:
            raise self._failures[0]

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="wire-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            script = self._scripts[min(self.connections, len(self._scripts)) - 1]
            self._start(self._play, sock, script)

    def _play(self, sock: socket.socket, script: Script) -> None:
        peer = Peer(sock, self.heads)
        try:
            if self._tls is not None:
                peer.start_tls(self._tls)
            script(peer)
        except OSError:
            pass  # the client is free to hang up
        except BaseException as exc:
            self._failures.append(exc)
        finally:
            peer.sock.close()


def unused_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def connected_pair(*, tls: bool = False) -> Iterator[tuple[Peer, socket.socket]]:
    """A peer, and the client's socket of its connection, set up as the delivery client does it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    peer = Peer(far, [])
    if tls:
        thread = threading.Thread(target=peer.start_tls, args=(server_tls(),))
        thread.start()
        near = client_tls().wrap_socket(near, server_hostname="localhost", suppress_ragged_eofs=False)
        thread.join()
    near.settimeout(_PATIENCE_SECONDS)
    try:
        yield peer, near
    finally:
        near.close()
        peer.sock.close()


# --- answers ---------------------------------------------------------------------------------------------


def head(status: str = "200 OK", headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def with_length(body: bytes, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> bytes:
    return head(status, {"Content-Length": str(len(body)), **(headers or {})}) + body


def chunked(body: bytes, size: int = 16) -> bytes:
    """A body in chunks of a size, with the last chunk."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def header_of(head: str, name: str) -> str | None:
    """The value of a header in a recorded head, or None."""
    for line in head.split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name.lower():
            return value.strip()
    return None


# --- keys ------------------------------------------------------------------------------------------------


class KeyGate:
    """A handler for pytest-httpserver: answers who signs with the key, and challenges everybody else.

    Args:
        answer: What whoever has the key gets.
        challenges: The challenges, one header each; `{nonce}` is the nonce of the moment.
        public_key: The user name.
        private_key: The password.

    Attributes:
        nonce: The only nonce that is good; change it to let it go stale.
        seen: The `Authorization` of each request, in order.
    """

    def __init__(
        self,
        answer: Callable[[Request], Response],
        *,
        challenges: Sequence[str] = ('Digest realm="MMS Public API", nonce="{nonce}", qop="auth", algorithm=MD5',),
        public_key: str = "public",
        private_key: str = "private-key",
    ) -> None:
        self._answer = answer
        self._challenges = challenges
        self._public_key = public_key
        self._private_key = private_key
        self.nonce = "nonce-1"
        self.seen: list[str | None] = []

    def __call__(self, request: Request) -> Response:
        authorization = request.headers.get("Authorization")
        self.seen.append(authorization)
        if authorization is not None and self._signed(request, authorization):
            return self._answer(request)
        response = Response('{"error": 401, "errorCode": "NOT_SIGNED", "detail": "Who are you?"}', status=401)
        for challenge in self._challenges:
            response.headers.add("WWW-Authenticate", challenge.replace("{nonce}", self.nonce))
        return response

    def _signed(self, request: Request, authorization: str) -> bool:
        """Whether the request has the response that RFC 7616, section 3.4.1, or RFC 2069 wants."""
        scheme, _, rest = authorization.partition(" ")
        said = parse_keqv_list(parse_http_list(rest))
        if scheme != "Digest" or said["nonce"] != self.nonce or said["uri"] != request.environ["REQUEST_URI"]:
            return False
        algorithm = said.get("algorithm", "MD5").upper()

        def digest(*texts: str) -> str:
            return hashlib.new(algorithm.replace("-", "").lower(), ":".join(texts).encode()).hexdigest()

        key = digest(self._public_key, said["realm"], self._private_key)
        asked = digest(request.method, said["uri"])
        middle = [said["nc"], said["cnonce"], said["qop"]] if "qop" in said else []
        return said["response"] == digest(key, said["nonce"], *middle, asked)
