"""A small proxy as a lab's web server has one: it serves an app under a sub-path, and nothing else."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server"}


@contextmanager
def under(path: str, app: str, *, names_visitor: bool = True) -> Iterator[str]:
    """Serve an app under a sub-path, and yield the app's address there.

    Args:
        path: the sub-path, such as "/people/me/latentbank/".
        app: the address of the app.
        names_visitor: send the visitor's Host as X-Forwarded-Host; Host itself is the app's own, as nginx has it by
            default.
    """
    upstream = urlsplit(app).netloc

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if not self.path.startswith(path):
                self.send_error(404)
                return
            size = int(self.headers.get("content-length", 0))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            headers["Host"] = upstream
            if names_visitor:
                headers["X-Forwarded-Host"] = self.headers["host"]
            there = http.client.HTTPConnection(upstream)
            there.request(self.command, "/" + self.path.removeprefix(path), self.rfile.read(size), headers)
            response = there.getresponse()
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.end_headers()
            while part := response.read1(1 << 16):
                self.wfile.write(part)
                self.wfile.flush()
            there.close()

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{path}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
