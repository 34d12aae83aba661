"""A real OpenAI-compatible server on loopback that answers, or misbehaves in a chosen way, call by call."""

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPLY = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "small",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "?"}}
    ],
    "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
}


def reply(text):
    """The body of a good answer."""
    content = json.loads(json.dumps(REPLY))
    content["choices"][0]["message"]["content"] = text
    return content


class ChatServer(ThreadingHTTPServer):
    """`behave(number, request)` says what is done with a call: a status, a body, or one of the words of `_misbehave`.

    requests: bodies as they came; keys: the Authorization headers; most_at_once: calls under way at a time.
    """

    daemon_threads = True

    def __init__(self, behave):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave = behave
        self.requests, self.keys = [], []
        self.at_once = self.most_at_once = 0
        self.mutex = threading.Lock()
        self.closing = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        """Clients that hang up are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        with server.mutex:
            number = len(server.requests)
            server.requests.append(request)
            server.keys.append(self.headers["authorization"])
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self._do(server.behave(number, request))
        finally:
            with server.mutex:
                server.at_once -= 1

    def _do(self, what):
        if isinstance(what, int):
            return self._send(what, {"error": {"message": f"error {what}", "code": None}})
        if isinstance(what, tuple):
            return self._send(*what)
        if isinstance(what, dict):
            return self._send(200, what)
        return self._misbehave(what)

    def _misbehave(self, what):
        if what == "hang":
            self.server.closing.wait(20)
        elif what == "disconnect":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif what == "cut in the middle":
            self._send(200, reply("never whole"), length=10_000)
            self.connection.shutdown(socket.SHUT_RDWR)
        elif what == "truncated JSON":
            self._send(200, b'{"id": "1", "choices": [{"mess')
        elif what == "not JSON":
            self._send(200, b"<html>proxy error</html>", kind="text/html")
        elif what == "slow":
            time.sleep(0.05)
            self._send(200, reply("slow"))
        else:
            raise AssertionError(what)

    def _send(self, status, body, headers=(), kind="application/json", length=None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(length or len(content)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serving(behave):
    """Context with a server in a thread of its own."""
    server = ChatServer(behave)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
