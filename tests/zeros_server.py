"""A restore service in a process of its own, whose archive is zeros: `python -m tests.zeros_server SIZE SHA1`.

It says its port on stdout, and serves until its stdin is closed. It asks for no key: what is measured is the
download, and the server must not be what is measured either.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

JOB_ID = "6b77893b80eef5354c77ee15"
PROJECT_ID = "5a2b46fe80eef53a4d0ca4b5"
NAME = "zeros.tar.gz"
_PIECE = bytes(1 << 20)
_SIZE, _SHA1 = int(sys.argv[1]), sys.argv[2]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    downloaded = False

    def do_GET(self) -> None:
        if "/restoreJobs/" in self.path:
            self.answer_job()
        else:
            self.deliver()

    def answer_job(self) -> None:
        host, port = self.server.server_address[:2]
        job = {
            "id": JOB_ID,
            "groupId": PROJECT_ID,
            "statusName": "FINISHED",
            "delivery": {
                "methodName": "HTTP",
                "statusName": "READY",
                "url": f"http://{host!s}:{port}/key-in-the-path/{NAME}",
            },
        }
        if Handler.downloaded:
            job["hashes"] = [{"typeName": "SHA1", "fileName": NAME, "hash": _SHA1}]  # type: ignore[assignment]
        body = json.dumps(job).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def deliver(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(_SIZE))
        self.end_headers()
        with contextlib.suppress(OSError):
            for start in range(0, _SIZE, len(_PIECE)):
                self.connection.sendall(_PIECE[: _SIZE - start])
            Handler.downloaded = True

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.shutdown()
    server.server_close()
