"""What both servers have in common: threads that stop at once, silence, the service's clock, a request log."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from restore_fetch.sandbox.service import Service

ServerName = Literal["api", "delivery"]
Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class LoggedRequest:
    """A request that reached the sandbox, noted when its answer began.

    Attributes:
        server: Which of the two servers.
        method: HTTP method.
        path: Request target, with its query and any key in it.
        status: HTTP status of the answer; 0 when the connection was dropped instead.
        range: The `Range` header, if there was one.
        headers: All headers, by lower-case name.
        job_id: The job it was about, when there was one.
    """

    server: ServerName
    method: str
    path: str
    status: int
    range: str | None
    headers: dict[str, str]
    job_id: str | None


class Journal:
    """What happened on the wire, for tests to look at afterwards."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[LoggedRequest] = []
        self._errors: list[BaseException] = []

    def note(self, request: LoggedRequest) -> None:
        """Remember a request."""
        with self._lock:
            self._requests.append(request)

    def fail(self, error: BaseException) -> None:
        """Remember an error of the sandbox itself."""
        with self._lock:
            self._errors.append(error)

    @property
    def requests(self) -> list[LoggedRequest]:
        """Every request so far, in the order of the answers."""
        with self._lock:
            return list(self._requests)

    @property
    def errors(self) -> list[BaseException]:
        """Errors of the sandbox itself; clients that hang up are none."""
        with self._lock:
            return list(self._errors)


class WireServer(socketserver.TCPServer):
    """An HTTP server with a thread a connection, which can hang up on all of them at once.

    The standard library's own HTTP server asks the resolver for its name when it binds, which can take
    seconds on a machine without one; this one does not.
    """

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[WireHandler],
        *,
        name: ServerName,
        service: Service,
        journal: Journal,
        tls: ssl.SSLContext | None,
    ) -> None:
        """Bind and listen.

        Args:
            address: Host and port; port 0 takes a free one.
            handler: What answers.
            name: How the request log calls it.
            service: What it answers from.
            journal: The request log.
            tls: Certificate and key, when it shall speak TLS.

        Raises:
            OSError: The address cannot be used.
        """
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.name: ServerName = name
        self.service = service
        self.journal = journal
        self._tls = tls
        self._live: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._acceptor = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, name=f"sandbox-{name}", daemon=True
        )
        super().__init__(address, handler)

    @property
    def origin(self) -> str:
        """Scheme, host and port, as they stand in a URL."""
        host, port = self.server_address[:2]
        host = host.decode() if isinstance(host, bytes | bytearray) else str(host)
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{shown}:{port}"

    def start(self) -> None:
        """Begin to accept connections."""
        self._acceptor.start()

    def stop(self) -> None:
        """Stop accepting, hang up on every client and wait for the threads to end."""
        if self._acceptor.is_alive():
            self.shutdown()
            self._acceptor.join()
        self.server_close()
        with self._lock:
            live = dict(self._live)
        for connection in live:
            # Below TLS: its own shutdown would take the session away from a thread that is using it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in live.values():
            thread.join(timeout=1.0)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; a TLS handshake is left to the thread that serves it."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        thread = threading.Thread(target=self._serve, args=(request, client_address), daemon=True)
        with self._lock:
            self._live[request] = thread
        thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Never write to standard error: what went wrong is in the journal."""

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client has gone, or never finished its handshake
        except Exception as error:  # noqa: BLE001 - whatever it is, tests want to see it
            self.journal.fail(error)
        finally:
            self.shutdown_request(request)
            with self._lock:
                self._live.pop(request, None)


class WireHandler(BaseHTTPRequestHandler):
    """An HTTP/1.1 handler that keeps connections alive and never prints."""

    protocol_version = "HTTP/1.1"
    server_version = "restore-sandbox"
    sys_version = ""
    disable_nagle_algorithm = True
    server: WireServer
    cut_short = False

    def answer(self) -> None:
        """Answer one request, whatever its method."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answer a request."""
        self.answer()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815

    def version_string(self) -> str:
        """The `Server` header."""
        return self.server_version

    def log_message(self, *_: object) -> None:
        """Say nothing: stdout and stderr belong to the program around the sandbox."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The `Date` header, by the service's clock."""
        return formatdate(self.server.service.now().timestamp() if timestamp is None else timestamp, usegmt=True)

    def finish(self) -> None:
        """End the connection; an orderly end under TLS says so first (RFC 8446, section 6.1)."""
        super().finish()
        if isinstance(self.connection, ssl.SSLSocket) and not self.cut_short:
            # Without a wait the notice goes out, and a client that never answers it holds nothing up.
            with contextlib.suppress(OSError, ValueError):
                self.connection.settimeout(0)
                self.connection.unwrap()

    def note(self, status: int, job_id: str | None = None) -> None:
        """Write the request into the log.

        Args:
            status: HTTP status it is answered with.
            job_id: The job it is about.
        """
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.journal.note(
            LoggedRequest(self.server.name, self.command, self.path, status, headers.get("range"), headers, job_id)
        )

    def begin(self, status: int, headers: Headers, *, job_id: str | None = None) -> None:
        """Log the request and send the head of its answer.

        Args:
            status: HTTP status.
            headers: Header fields beside `Date` and `Server`.
            job_id: The job it is about.
        """
        self.note(status, job_id)
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def reply(
        self, status: int, content_type: str, body: bytes, headers: Headers = (), *, job_id: str | None = None
    ) -> None:
        """Send a whole answer.

        Args:
            status: HTTP status.
            content_type: `Content-Type`.
            body: The body; it is left out for HEAD.
            headers: Further header fields.
            job_id: The job it is about.
        """
        own = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        self.begin(status, [*own, *headers], job_id=job_id)
        if self.command != "HEAD":
            self.wfile.write(body)
