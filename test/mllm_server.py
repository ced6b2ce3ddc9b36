"""A real HTTP server that answers as an OpenAI-compatible one with given texts, and fails in the ways servers fail.

    with RecordedServer('{"bbox_2d": [1, 2, 3, 4]}') as server:
        mllm = OpenAiMllm(OpenAiConfig(base_url=server.url))

Each chat request takes the next reply of the script; the last one is repeated. A plain string is a reply that says it:

    RecordedServer([Reply(status=429, headers={"Retry-After": "1"}), "now it works"])
    RecordedServer(Reply("never comes", hang_at=0))                    # hangs before the first token
    RecordedServer(Reply("comes in part", hang_at=2))                  # hangs after two pieces
    RecordedServer(Reply("comes in part", disconnect_at=2))            # the connection breaks after two pieces

`server.requests` holds the bodies of the chat requests so far, `server.hung_up` is set once a client has left a hanging
or slow reply. Nothing listens any more after the `with` block; `unused_url()` gives a URL where nothing ever listened.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """What the server does with one chat request. `*_at` counts pieces of the streamed text, from 0."""

    text: str = ""
    thinking: str = ""
    """Sent before the text, as the deltas of a thinking model."""
    thinking_field: str = "reasoning_content"
    """vLLM, SGLang, DeepSeek: reasoning_content; Ollama, OpenRouter: reasoning."""
    piece_length: int = 4
    """Characters a streamed piece."""
    piece_delay_s: float = 0.0
    byte_by_byte: bool = False
    """Send the body's bytes one at a time, cutting lines and UTF-8 sequences anywhere."""
    status: int = 200
    message: str = "the server's own words"
    """Error message of a status other than 200."""
    headers: dict[str, str] = field(default_factory=dict)
    hang_at: int | None = None
    disconnect_at: int | None = None
    malformed_at: int | None = None
    error_at: int | None = None
    """An error object within the stream, as servers send when the model fails half-way."""
    error_code: int | None = None
    """That the object holds."""
    finish_reason: str | None = "stop"
    usage: bool = True
    """Tell the token counts, where the request asks for them."""
    last_chunks: Sequence[dict] = ()
    """What each of the chunks after the text has in place of what is usual."""


class RecordedServer:
    """Listens on 127.0.0.1 from construction to `close` (or the end of the `with` block).

    Args:
        script: what to reply, one a request; the last is repeated.
        models: what /v1/models lists; None: the server has no such path (404); a string: that page, which some servers
            give for every path that is none of theirs.
        refused_fields: fields of the request's body that are answered with 400 and a message naming them.
    """

    def __init__(
        self,
        script: str | Reply | Iterable[str | Reply] = "",
        models: Sequence[str] | str | None = ("recorded-mllm",),
        refused_fields: Sequence[str] = (),
    ):
        replies = [script] if isinstance(script, (str, Reply)) else list(script)
        self.script = [Reply(reply) if isinstance(reply, str) else reply for reply in replies]
        self.models = models
        self.refused_fields = tuple(refused_fields)
        self.requests: list[dict] = []
        self.paths: list[str] = []
        """The path of every request, in the order of their arrival."""
        self.authorizations: list[str] = []
        """The Authorization header of each chat request, to be compared, never printed."""
        self.times: list[float] = []
        """time.monotonic() of each chat request."""
        self.hung_up = threading.Event()
        self.stopping = threading.Event()
        self.changed = threading.Condition()
        self._taken = 0
        self._http = _HttpServer(("127.0.0.1", 0), _Handler)
        self._http.recorded = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def wait_for_request(self, count: int = 1, timeout_s: float = 30.0) -> None:
        """Until `count` chat requests have arrived in all."""
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.requests) >= count, timeout_s):
                raise TimeoutError(f"{len(self.requests)} of {count} requests after {timeout_s} s")

    def close(self) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> RecordedServer:
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def _next_reply(self) -> Reply:
        with self.changed:
            reply = self.script[min(self._taken, len(self.script) - 1)]
            self._taken += 1
            return reply


def unused_url() -> str:
    """The URL of a port of this machine on which nothing listens: connections are refused."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


@contextlib.contextmanager
def unanswered_url():
    """A URL that never completes a connection, as a host behind a firewall: a listening socket with a full backlog."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(8):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}/v1"


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    recorded: RecordedServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        recorded = self.server.recorded
        recorded.paths.append(self.path)
        if isinstance(recorded.models, str):
            self._answer(200, "text/html", recorded.models.encode())
        elif self.path == "/v1/models" and recorded.models is not None:
            self._json(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in recorded.models]})
        else:
            self._json(404, {"error": {"message": "no such path"}})

    def do_POST(self) -> None:
        recorded = self.server.recorded
        recorded.paths.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self._json(404, {"error": {"message": "no such path"}})
            return
        with recorded.changed:
            recorded.requests.append(body)
            recorded.authorizations.append(self.headers.get("Authorization", ""))
            recorded.times.append(time.monotonic())
            recorded.changed.notify_all()
        for name in recorded.refused_fields:
            if name in body:
                self._json(400, {"error": {"message": f"Unsupported parameter: {name!r} is not supported."}})
                return
        reply = recorded._next_reply()
        if reply.status != 200:
            self._json(reply.status, {"error": {"message": reply.message}}, reply.headers)
            return
        try:
            self._stream(reply, body)
        except (BrokenPipeError, ConnectionResetError):
            recorded.hung_up.set()
            self.close_connection = True

    def _stream(self, reply: Reply, body: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        deltas = [{reply.thinking_field: piece} for piece in _pieces(reply.thinking, reply.piece_length)]
        deltas += [{"content": piece} for piece in _pieces(reply.text, reply.piece_length)]
        self._event(reply, _chunk({"role": "assistant", "content": ""}))
        for index in range(len(deltas) + 1):
            if reply.hang_at == index and not self._wait(None):
                return
            if reply.disconnect_at == index:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if reply.malformed_at == index:
                self._send(reply, b'data: {"choices": [{"delta": \n\n')
            if reply.error_at == index:
                self._event(reply, {"error": {"message": reply.message, "code": reply.error_code}})
                break
            if index == len(deltas):
                self._event(reply, _chunk({}, reply.finish_reason))
                break
            if reply.piece_delay_s and not self._wait(reply.piece_delay_s):
                return
            self._event(reply, _chunk(deltas[index]))
        if reply.usage and body.get("stream_options", {}).get("include_usage"):
            self._event(
                reply,
                {
                    **_chunk({}),
                    "choices": [],
                    "usage": {"prompt_tokens": 11, "completion_tokens": len(deltas), "total_tokens": 11 + len(deltas)},
                },
            )
        for change in reply.last_chunks:
            self._event(reply, {**_chunk({}), **change})
        self._send(reply, b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _wait(self, seconds: float | None) -> bool:
        """Sleep (None: for ever); False as soon as the client has left or the server stops."""
        recorded = self.server.recorded
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            left = 0.05 if deadline is None else min(0.05, max(0.0, deadline - time.monotonic()))
            if recorded.stopping.is_set():
                self.close_connection = True
                return False
            if select.select([self.connection], [], [], left)[0]:
                recorded.hung_up.set()
                self.close_connection = True
                return False
        return True

    def _event(self, reply: Reply, data: dict) -> None:
        self._send(reply, b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n")

    def _send(self, reply: Reply, data: bytes) -> None:
        for part in [data[i : i + 1] for i in range(len(data))] if reply.byte_by_byte else [data]:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()

    def _json(self, status: int, body: dict, headers: dict[str, str] | None = None) -> None:
        self._answer(status, "application/json", json.dumps(body).encode(), headers)

    def _answer(self, status: int, type: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", type)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args) -> None:
        """Silent: tests assert on `requests`."""


def _pieces(text: str, length: int) -> list[str]:
    return [text[i : i + length] for i in range(0, len(text), length)]


def _chunk(delta: dict, finish_reason: str | None = None) -> dict:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "recorded-mllm",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
