"""A real OpenAI-compatible server on loopback with a real small model behind it: `smollm.SmolLm`, greedy.

python -m tests.semantic.local_llm_server REQUESTS.jsonl

prints its address once the model is loaded. It has POST /v1/chat/completions and GET /v1/models, wants the key that
$OPENAI_API_KEY holds here, if any, and writes each request it accepts to REQUESTS.jsonl: before it is answered, and
with the counts of tokens after.
"""

import contextlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.semantic.smollm import NAME, SmolLm


class LocalLlmServer(ThreadingHTTPServer):
    """One model, one answer at a time; others wait."""

    daemon_threads = True

    def __init__(self, model: SmolLm, requests: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.requests = model, requests
        self.key = os.environ.get("OPENAI_API_KEY", "")
        self.mutex = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def note(self, **record) -> None:
        """A line of the file of requests; on the disk when it returns."""
        with open(self.requests, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class _RefusedError(Exception):
    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.path != "/v1/models":
            return self._send(404, _error("no such path"))
        return self._send(200, {"object": "list", "data": [{"id": NAME, "object": "model"}]})

    def do_POST(self):
        try:
            reply = self._complete()
        except _RefusedError as refused:
            return self._send(refused.status, _error(str(refused)))
        return self._send(200, reply)

    def _complete(self) -> dict:
        server = self.server
        if self.path != "/v1/chat/completions":
            raise _RefusedError(404, "no such path")
        body = self.rfile.read(int(self.headers["content-length"]))
        if server.key and self.headers["authorization"] != f"Bearer {server.key}":
            raise _RefusedError(401, "wrong key")
        messages, max_tokens = self._understood(body)
        with server.mutex:
            server.note(event="asked", messages=messages)
            found = server.model.answer(messages, max_tokens)
            usage = {
                "prompt_tokens": found.tokens_in,
                "completion_tokens": found.tokens_out,
                "total_tokens": found.tokens_in + found.tokens_out,
            }
            server.note(event="answered", text=found.text, **usage)
        return {
            "id": f"chatcmpl-{time.time_ns()}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": NAME,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop" if found.whole else "length",
                    "message": {"role": "assistant", "content": found.text},
                }
            ],
            "usage": usage,
        }

    def _understood(self, body: bytes) -> tuple[list[dict[str, str]], int]:
        """Messages and the limit of a request."""
        try:
            request = json.loads(body)
            messages = [
                {name: str(one[name]) for name in ("role", "content")}
                for one in request["messages"]
            ]
            max_tokens = int(request.get("max_tokens") or 256)
        except (ValueError, KeyError, TypeError):
            raise _RefusedError(400, "not a chat request") from None
        if request.get("model") != NAME:
            raise _RefusedError(404, f"no such model; there is {NAME}")
        if request.get("temperature", 1) != 0:
            raise _RefusedError(400, "answers are greedy only: temperature 0")
        if self.server.model.count(messages) + max_tokens > self.server.model.longest:
            raise _RefusedError(400, "longer than the model's context")
        return messages, max_tokens

    def _send(self, status: int, body: dict) -> None:
        content = json.dumps(body).encode()
        with contextlib.suppress(ConnectionError):  # who asked may be gone
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


def _error(message: str) -> dict:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


def main() -> None:
    with LocalLlmServer(SmolLm(), sys.argv[1]) as server:
        print(server.url, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
