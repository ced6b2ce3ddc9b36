"""Any OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, transformers serve, hosted ones (docs/mllm.md)."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import difflib
import email.utils
import logging
import os
import queue
import random
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np

from rsvp_ros.errors import (
    CancelledError,
    ConfigurationError,
    ModelLoadError,
    ModelRunError,
    ServerTimeoutError,
    ServerUnavailableError,
)
from rsvp_ros.reasoning.families import SURE_PIXELS, family_for
from rsvp_ros.reasoning.mllm.base import Generation, Message
from rsvp_ros.reasoning.mllm.images import shrink

_log = logging.getLogger(__name__)

_CANCEL_POLL_S = 0.05
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 8.0
MODELS_SHOWN = 8
_NO_LIST = ValueError, TypeError, AttributeError
"""What the client raises when it gets something other than a list of models."""


@dataclass(frozen=True)
class OpenAiConfig:
    """How to reach a server and what to ask of it."""

    base_url: str = "http://localhost:8000/v1"
    model: str = ""
    """Empty: the first that the server lists."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; a server without keys needs none."""
    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 60.0
    """From sending the request to the first piece of text, while the server loads, queues and reads the image; also
    between two pieces."""
    total_timeout_s: float = 180.0
    """The whole call, retries included."""
    max_retries: int = 3
    max_tokens: int = 4096
    temperature: float = 0.0
    image_format: Literal["jpeg", "png"] = "jpeg"
    jpeg_quality: int = 90
    max_pixels: int = 1_310_720
    """Larger images are scaled down to this many pixels before they are sent (1280 x 1024); 0: never."""

    def __post_init__(self):
        if "@" in re.sub(r"^\w+://", "", self.base_url).partition("/")[0]:
            raise ConfigurationError("base_url holds a user name or key: keys belong in the environment (api_key_env)")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):  # not shown: it may be the key itself
            raise ConfigurationError(
                "api_key_env is no name of an environment variable: export the key in a variable and give its name"
            )
        if not _is_url(self.base_url):
            raise ConfigurationError(
                f"base_url is {self.base_url!r}: it must be a URL such as http://localhost:8000/v1"
            )
        if "?" in self.base_url:  # not shown: it may hold a key
            raise ConfigurationError("base_url holds a query (?): keys belong in the environment (api_key_env)")
        for name in ("connect_timeout_s", "first_token_timeout_s", "total_timeout_s", "max_tokens"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}: it must be greater than 0")
        for name in ("max_retries", "max_pixels", "temperature"):
            if not getattr(self, name) >= 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}: it must not be negative")
        if self.image_format not in ("jpeg", "png"):
            raise ConfigurationError(f"image_format is {self.image_format!r}: it must be 'jpeg' or 'png'")
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigurationError(f"jpeg_quality is {self.jpeg_quality}: it must be 1 to 100")


class _EventLoop(asyncio.SelectorEventLoop):
    """Resolves names in threads that nobody waits for at exit: without a DNS server, that takes long."""

    async def getaddrinfo(self, *args, **options) -> list:
        found: concurrent.futures.Future[list] = concurrent.futures.Future()
        found.set_running_or_notify_cancel()  # so that it can always be given its result

        def resolve() -> None:
            try:
                found.set_result(socket.getaddrinfo(*args, **options))
            except Exception as error:
                found.set_exception(error)

        threading.Thread(target=resolve, daemon=True).start()
        return await asyncio.wrap_future(found)


class OpenAiMllm:
    """An `Mllm` behind HTTP. Several threads may call `generate` at once.

    The client lives in an event loop on its own thread: the caller's thread only waits for pieces of text, so it can
    leave at once when it is cancelled, whatever the network is doing (name resolution cannot be interrupted at all).

    `Generation.image_size` is the size at which the image was sent; the server may scale it once more (the Qwen-VL
    processors round to multiples of 28 or 32 pixels; `Family.pixels_per_unit` does the same).

    Raises ModelLoadError if the package openai is missing, ConfigurationError if the key cannot be sent.
    """

    def __init__(self, config: OpenAiConfig):
        try:
            import openai
        except ImportError as error:
            raise ModelLoadError(
                "the MLLM backend 'openai' needs the package openai: pip install 'rsvp_ros[openai]'"
            ) from error
        self._openai = openai
        self._config = config
        self._model = config.model
        self._key = os.environ.get(config.api_key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):  # an HTTP header's error would show it
            raise ConfigurationError(
                f"the environment variable {config.api_key_env} holds no API key that can be sent: it has characters "
                "other than printable ASCII; export it anew"
            )
        self._loop = _EventLoop()
        try:
            self._client = openai.AsyncOpenAI(
                base_url=config.base_url,
                api_key=self._key or "none",
                max_retries=0,
                timeout=openai.Timeout(None, connect=config.connect_timeout_s),
            )
        except (ImportError, OSError, ValueError) as error:  # the client reads the environment
            self._loop.close()
            raise ConfigurationError(
                f"no client for {config.base_url} can be made ({error}): see the environment variables ALL_PROXY, "
                "HTTP_PROXY, HTTPS_PROXY and SSL_CERT_FILE. socks:// must be socks5://, which needs `pip install "
                "socksio`; for a server in the local network unset them, or set NO_PROXY"
            ) from error
        self._options = {
            "max_tokens": config.max_tokens,
            "temperature": config.temperature,
            "stream_options": {"include_usage": True},
        }
        self._takes_system = True
        self._warned_of_size = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai_mllm", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._model or self._config.base_url

    def generate(
        self,
        messages: Sequence[Message],
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """See `Mllm.generate`. A thinking model's thought comes first, as <think>...</think>."""
        chat, image_size = self._encode(messages)
        text, end = self._run(chat, on_text, cancel)
        return Generation(text, end.prompt_tokens, end.completion_tokens, image_size, end.cut)

    def prepare(self, cancel: threading.Event | None = None) -> None:
        """See `Mllm.prepare`: asks the server for the model's name where it was not given."""
        if not self._model:
            self._run(None, None, cancel)
        limit = self._config.max_pixels
        if 0 < limit < SURE_PIXELS and family_for(self.name).scale == "model" and not self._warned_of_size:
            self._warned_of_size = True
            _log.warning(
                "max_pixels is %d: llama.cpp and Ollama scale so small images for %s up again, and then all its boxes "
                "are off; set it to at least %d, or to 0",
                limit,
                self.name,
                SURE_PIXELS,
            )

    def _run(
        self, chat: list[dict] | None, on_text: Callable[[str], None] | None, cancel: threading.Event | None
    ) -> tuple[str, _End]:
        """The answer's text and how it ended; without a chat: only learn the model's name."""
        if self._loop.is_closed():
            raise ModelRunError("this OpenAiMllm was closed; make a new one")
        if cancel is not None and cancel.is_set():
            raise CancelledError("cancelled before the MLLM server was asked")
        pieces: queue.Queue[str | None] = queue.Queue()
        left = threading.Event()

        def emit(piece: str) -> None:
            if left.is_set():  # the cancellation was lost: see _shut_down
                raise asyncio.CancelledError
            pieces.put(piece)

        answer = asyncio.run_coroutine_threadsafe(self._answer(chat, emit), self._loop)
        answer.add_done_callback(lambda _: pieces.put(None))
        text = []
        try:
            while (piece := self._next(pieces, cancel)) is not None:
                text.append(piece)
                if on_text is not None:
                    on_text(piece)
        finally:
            left.set()
            answer.cancel()  # no effect on an answer that is complete
        try:
            return "".join(text), answer.result()
        except concurrent.futures.CancelledError:
            raise ModelRunError("this OpenAiMllm was closed while it answered; make a new one") from None

    def close(self) -> None:
        """Close the connections and end the thread; calls still running end with an error."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut_down(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        while calls:  # Python 3.11's wait_for loses a cancellation that arrives together with the result
            for call in calls:
                call.cancel()
            _, calls = await asyncio.wait(calls, timeout=_CANCEL_POLL_S)
        await self._client.close()

    def _next(self, pieces: queue.Queue, cancel: threading.Event | None) -> str | None:
        while True:
            if cancel is not None and cancel.is_set():
                raise CancelledError(f"cancelled while the MLLM server at {self._config.base_url} was answering")
            try:
                return pieces.get(timeout=_CANCEL_POLL_S)
            except queue.Empty:
                continue

    def _encode(self, messages: Sequence[Message]) -> tuple[list[dict], tuple[int, int] | None]:
        """The conversation in the API's form, and (width, height) of the last image in it."""
        chat, size = [], None
        for message in messages:
            if not message.images:
                chat.append({"role": message.role, "content": message.text})
                continue
            content = []
            for image in message.images:
                image = shrink(image, self._config.max_pixels)
                size = (image.shape[1], image.shape[0])
                content.append({"type": "image_url", "image_url": {"url": self._data_uri(image)}})
            chat.append({"role": message.role, "content": [*content, {"type": "text", "text": message.text}]})
        return chat, size

    def _data_uri(self, image: np.ndarray) -> str:
        jpeg = self._config.image_format == "jpeg"
        options = [cv2.IMWRITE_JPEG_QUALITY, self._config.jpeg_quality] if jpeg else []
        _, data = cv2.imencode(".jpg" if jpeg else ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        return f"data:image/{self._config.image_format};base64,{base64.b64encode(data).decode()}"

    # From here on everything runs in the event loop.

    async def _answer(self, chat: list[dict] | None, emit: Callable[[str], None]) -> _End:
        """Stream an answer to `emit`."""
        config = self._config
        try:
            return await asyncio.wait_for(self._answer_with_retries(chat, emit), config.total_timeout_s)
        except asyncio.TimeoutError:
            raise ServerTimeoutError(
                f"the MLLM server at {config.base_url} did not finish its answer within total_timeout_s = "
                f"{config.total_timeout_s:g} s: raise it, lower max_tokens, or use a faster model or server"
            ) from None

    async def _answer_with_retries(self, chat: list[dict] | None, emit: Callable[[str], None]) -> _End:
        deadline = time.monotonic() + self._config.total_timeout_s
        attempt = 0
        while True:
            started = _Started(emit)
            try:
                return await self._attempt(chat, started)
            except self._openai.OpenAIError as error:
                if started.yes or not self._worth_retrying(error) or attempt == self._config.max_retries:
                    raise await self._explain(error, started, attempt + 1) from None
                delay = _delay_s(attempt, error)
                if time.monotonic() + delay >= deadline:
                    raise await self._explain(error, started, attempt + 1, delay) from None
                _log.warning(
                    "MLLM server at %s: %s; next try in %.1f s", self._config.base_url, self._words(error), delay
                )
            attempt += 1
            await asyncio.sleep(delay)

    async def _attempt(self, chat: list[dict] | None, emit: _Started) -> _End:
        if not self._model:
            self._model = await self._before_first_token(self._first_model(), time.monotonic())
        if chat is None:
            return _End()
        options, takes_system = self._options, self._takes_system
        while True:
            try:
                result = await self._stream(chat if takes_system else _without_system(chat), options, emit)
            except (self._openai.BadRequestError, self._openai.UnprocessableEntityError) as error:
                if taken := _without_refused(options, str(error)):
                    options = taken
                elif takes_system and _REFUSES_SYSTEM.search(str(error)):
                    takes_system = False
                else:
                    raise
            else:
                self._options, self._takes_system = options, takes_system
                return result

    async def _stream(self, chat: list[dict], options: dict, emit: _Started) -> _End:
        config = self._config
        prompt_tokens = completion_tokens = 0
        finish_reason = None
        thinking = False
        waiting_since = time.monotonic()
        stream = await self._before_first_token(
            self._client.chat.completions.create(model=self._model, messages=chat, stream=True, **options),
            waiting_since,
        )
        async with stream:
            chunks = stream.__aiter__()
            while True:
                try:
                    chunk = await (
                        self._next_piece(chunks.__anext__())
                        if emit.yes
                        else self._before_first_token(chunks.__anext__(), waiting_since)
                    )
                    if chunk.usage is not None:  # not every server counts
                        prompt_tokens = chunk.usage.prompt_tokens or 0
                        completion_tokens = chunk.usage.completion_tokens or 0
                    for choice in chunk.choices or ():
                        finish_reason = choice.finish_reason or finish_reason
                        if choice.delta is None:
                            continue
                        for thinks, piece in _pieces(choice.delta):
                            if piece:
                                tag = "" if thinks == thinking else "<think>" if thinks else "</think>"
                                emit(tag + piece)
                                thinking = thinks
                except StopAsyncIteration:
                    break
                except (ValueError, TypeError, AttributeError, KeyError) as error:  # not JSON, or JSON of another kind
                    raise ServerUnavailableError(
                        f"the MLLM server at {config.base_url} streams something else than chat completions ({error}): "
                        "is it an OpenAI-compatible server? base_url usually ends in /v1"
                    ) from None
        if thinking:
            emit("</think>")
        if finish_reason is None:
            raise ServerUnavailableError(
                f"the MLLM server at {config.base_url} broke off its answer: see the server's log, and ask again"
                if emit.yes
                else f"the MLLM server at {config.base_url} sent no answer: is it an OpenAI-compatible server? "
                "base_url usually ends in /v1"
            )
        if finish_reason == "content_filter" and not emit.yes:
            raise ServerUnavailableError(
                f"the MLLM server at {config.base_url} withheld its answer (content_filter): say it in other words, or "
                "ask another model"
            )
        if finish_reason == "length":
            _log.warning("the answer of %s was cut at max_tokens = %d: raise it", self.name, config.max_tokens)
        return _End(prompt_tokens, completion_tokens, finish_reason == "length")

    async def _next_piece(self, work):
        limit = self._config.first_token_timeout_s
        try:
            return await asyncio.wait_for(work, limit)
        except asyncio.TimeoutError:
            raise ServerTimeoutError(
                f"the MLLM server at {self._config.base_url} sent nothing for {limit:g} s (first_token_timeout_s) in "
                "the middle of its answer: see whether the network is still there and the server's log, and ask again"
            ) from None

    async def _before_first_token(self, work, since: float):
        limit = self._config.first_token_timeout_s
        try:
            return await asyncio.wait_for(work, max(0.0, since + limit - time.monotonic()))
        except asyncio.TimeoutError:
            raise ServerTimeoutError(
                f"the MLLM server at {self._config.base_url} sent no text within first_token_timeout_s = {limit:g} s: "
                "it may still load the model or be busy; raise the timeout or see the server's log"
            ) from None

    async def _first_model(self) -> str:
        try:
            models = [model.id async for model in self._client.models.list()]
        except _NO_LIST as error:
            raise ServerUnavailableError(
                f"the MLLM server at {self._config.base_url} lists its models in no known form ({error}): is it an "
                "OpenAI-compatible server? base_url usually ends in /v1; else set the model's name"
            ) from None
        if not models:
            raise ServerUnavailableError(
                f"the MLLM server at {self._config.base_url} lists no model: set the model's name"
            )
        return models[0]

    async def _listed_models(self) -> list[str]:
        """For messages; empty if the server does not tell."""

        async def read() -> list[str]:
            return [model.id async for model in self._client.models.list()]

        try:
            return await asyncio.wait_for(read(), self._config.connect_timeout_s)
        except (self._openai.OpenAIError, asyncio.TimeoutError, *_NO_LIST):
            return []

    def _worth_retrying(self, error: Exception) -> bool:
        openai = self._openai
        if isinstance(error, openai.APITimeoutError):
            return False  # it has waited already
        if isinstance(error, openai.APIConnectionError):
            return True
        # Within the stream, after a status of 200, the error itself holds the number
        code = error.status_code if isinstance(error, openai.APIStatusError) else _code(error)
        return code is not None and (code == 429 or code >= 500)

    def _words(self, error: Exception) -> str:
        """What the error says, its cause first, without the key."""
        words = str(error)
        if error.__cause__ is not None and str(error.__cause__):
            words = f"{words.rstrip('.')} ({error.__cause__})"
        return words.replace(self._key, "***") if self._key else words

    async def _explain(self, error: Exception, started: _Started, tries: int, delay_s: float = 0.0) -> Exception:
        """This package's error in place of one of the client library's."""
        openai, config = self._openai, self._config
        words, where = self._words(error), f"the MLLM server at {config.base_url}"
        if isinstance(error, openai.APITimeoutError):
            return ServerTimeoutError(
                f"{where} did not accept a connection within connect_timeout_s = {config.connect_timeout_s:g} s: "
                "check the address, the network and the firewall"
            )
        wrong_key = isinstance(error, openai.BadRequestError) and "api key" in words.lower()  # so Gemini says it
        if wrong_key or isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            name = config.api_key_env
            if not self._key and name not in os.environ and name != name.upper():
                name = "that api_key_env names"  # it may hold the key itself, which must not get into the log
            have = "is not accepted" if self._key else "is not set"
            return ServerUnavailableError(
                f"{where} asks for a valid API key ({words}); the environment variable {name} {have}: "
                "export it where the node is started, or set api_key_env to the variable that holds the key"
            )
        if isinstance(error, openai.NotFoundError):
            if not self._model:
                return ServerUnavailableError(
                    f"{where} does not list its models ({words}): set the model's name; base_url usually ends in /v1"
                )
            model, self._model = self._model, config.model  # a restarted server may have another model
            models = _nearest(model, await self._listed_models())
            known = f"it has {models}" if models else "it lists none; base_url usually ends in /v1"
            return ServerUnavailableError(f"{where} has no model {model!r} ({words}): {known}")
        if isinstance(error, openai.APIStatusError):
            if delay_s:
                remedy = f"it asks to wait {delay_s:.0f} s, total_timeout_s is {config.total_timeout_s:g} s"
            elif self._worth_retrying(error):
                remedy = f"tried {tries} times; see the server's log"
            elif "context" in words or "max_tokens" in words:
                remedy = f"lower max_tokens ({config.max_tokens}), or start the server with room for a longer context"
            else:
                remedy = f"see whether the model {self._model!r} takes images and so long a prompt"
            return ServerUnavailableError(f"{where} answered {error.status_code} ({words}): {remedy}")
        if started.yes:
            return ServerUnavailableError(
                f"{where} broke off its answer ({words}): see the server's log, and ask again"
            )
        if not isinstance(error, openai.APIConnectionError):
            return ServerUnavailableError(
                f"{where} answered with an error ({words}; tried {tries} times): see the server's log, and whether the "
                f"model {self._model!r} takes images and so long a prompt"
            )
        return ServerUnavailableError(
            f"{where} cannot be reached ({words}; tried {tries} times): start it (docs/mllm.md) or correct base_url"
        )


class _End(NamedTuple):
    """How an answer ended."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False


class _Started:
    """Passes text on and remembers whether there was any: if so, the answer cannot be asked for again."""

    def __init__(self, emit: Callable[[str], None]):
        self._emit = emit
        self.yes = False

    def __call__(self, text: str) -> None:
        self.yes = True
        self._emit(text)


def _code(error: Exception) -> int | None:
    """The number in an error's body, as in `data: {"error": {"code": 429}}`."""
    body = getattr(error, "body", None)
    code = body.get("code") if isinstance(body, dict) else None
    return int(code) if str(code).isdecimal() else None


def _pieces(delta) -> Iterator[tuple[bool, str]]:
    """The text in a part of an answer, each piece with whether it is thought.

    Thoughts are in `reasoning_content` (vLLM, SGLang, DeepSeek), `reasoning` (Ollama, OpenRouter), or in parts of the
    content (Mistral). Raises TypeError or KeyError for content that is no text.
    """
    yield True, getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or ""
    if not isinstance(delta.content, list):
        yield False, delta.content or ""
        return
    for part in delta.content:
        if part["type"] == "thinking":
            yield from ((True, thought["text"]) for thought in part["thinking"])
        elif part["type"] == "text":
            yield False, part["text"]
        else:
            raise TypeError(f"content of the type {part['type']!r}")


_REFUSES_SYSTEM = re.compile(r"roles must alternate|\bsystem\b|user and assistant roles|developer instruction", re.I)
"""In the words of chat templates that have no system turn: Molmo2's, Gemma's, Mistral's, and Google's for Gemma."""


def _without_system(chat: list[dict]) -> list[dict]:
    """The conversation with the system's text in front of the user's first."""
    if chat[0]["role"] != "system":
        return chat
    system, user, *rest = chat
    content = user["content"]
    if isinstance(content, str):
        content = f"{system['content']}\n\n{content}"
    else:
        content = [*content[:-1], {"type": "text", "text": f"{system['content']}\n\n{content[-1]['text']}"}]
    return [{"role": "user", "content": content}, *rest]


def _without_refused(options: dict, message: str) -> dict | None:
    """The request's options without what the server's message refuses by name; None if it refuses nothing.

    Some servers do not know stream_options; OpenAI's reasoning models take no temperature and call the limit
    max_completion_tokens.
    """
    if "stream_options" in options and ("stream_options" in message or "include_usage" in message):
        return {name: value for name, value in options.items() if name != "stream_options"}
    if "max_tokens" in options and "max_completion_tokens" in message and "too large" not in message:
        kept = {name: value for name, value in options.items() if name != "max_tokens"}
        return {**kept, "max_completion_tokens": options["max_tokens"]}
    if "temperature" in options and "temperature" in message:
        return {name: value for name, value in options.items() if name != "temperature"}
    return None


def _is_url(text: str) -> bool:
    if not text.startswith(("http://", "https://")) or not text.isprintable():
        return False
    try:
        parts = urllib.parse.urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # not a valid port number or IPv6 address
        return False


def _nearest(model: str, models: Sequence[str]) -> str:
    """Some of a server's models, for a message: those with similar names first."""
    shown = dict.fromkeys((*difflib.get_close_matches(model, models, MODELS_SHOWN), *models))
    some = ", ".join(list(shown)[:MODELS_SHOWN])
    return f"{some} and {len(shown) - MODELS_SHOWN} more" if len(shown) > MODELS_SHOWN else some


def _delay_s(attempt: int, error: Exception) -> float:
    """Exponential back-off with jitter, at least as long as the server's Retry-After asks."""
    backoff = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempt) * random.uniform(0.5, 1.0)
    return max(backoff, _retry_after_s(error))


def _retry_after_s(error: Exception) -> float:
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After") if response is not None else None
    if value is None:
        return 0.0
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
