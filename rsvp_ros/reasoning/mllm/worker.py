"""An MLLM in a process of its own, so that reasoning takes neither the GIL nor the CPU time of the segmenting process.

If both use the same GPU, they still take turns on it: see docs/mllm.md.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING

from rsvp_ros.errors import CancelledError, ModelLoadError, ModelRunError, RsvpError
from rsvp_ros.reasoning.mllm.base import Generation, Message

if TYPE_CHECKING:
    from rsvp_ros.reasoning.mllm.transformers_mllm import TransformersConfig

_log = logging.getLogger(__name__)

_CANCEL_POLL_S = 0.05
_PARENT_POLL_S = 1.0
_NICENESS = 19
"""The lowest priority, for machines with too few cores: Linux then wakes a thread of the segmenter in place of this
process, instead of behind another thread of the segmenter that spins while it waits for the first. At 5, a frame now
and then took up to ten times as long (benchmark/frames_while_reasoning.py)."""


class WorkerMllm:
    """Runs the model of `config` in another process, with lowered priority and its own torch threads.

    The worker is started as a plain interpreter, not by multiprocessing, which would import the main module a second
    time: that may be a node's script without a `__main__` guard. The worker ends when the pipe to this process breaks,
    so it never outlives this process, however that ends. If the worker dies, the running call ends with ModelRunError
    and the next call starts it again.

    The model gets half of the cores, unless the environment sets OMP_NUM_THREADS. A GPU has no such priorities:
    processes that share one are time-sliced, so a frame waits there while the model computes.

    `name`: see `Mllm`; `threads`: number of CPU threads that the model computes with, 0 on a GPU.

    Raises ModelLoadError.
    """

    def __init__(self, config: TransformersConfig):
        self._config = config
        self._calls = itertools.count(1)
        self._lock = threading.Lock()
        self._closed = False
        self._start()
        try:
            self.name, self.threads = self._wait_until_loaded(None)
        except BaseException:
            self._stop()
            raise

    @property
    def pid(self) -> int:
        """Process ID of the worker."""
        return self._process.pid

    def prepare(self, cancel: threading.Event | None = None) -> None:
        """See `Mllm.prepare`: the name is already known."""

    def generate(
        self,
        messages: Sequence[Message],
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """See `Mllm.generate`. Calls from several threads wait for each other."""
        while not self._lock.acquire(timeout=_CANCEL_POLL_S):
            _check(cancel)
        try:
            if self._closed:
                raise ModelRunError("this MLLM was closed; load it again")
            if self._process.poll() is not None:
                _log.warning("the process of the MLLM %s %s; it is started again", self.name, self._how_it_ended())
                self._stop()
                self._start()
            if not self._loaded:
                self._wait_until_loaded(cancel)
            return self._ask(messages, on_text, cancel)
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the process; a call that is still running ends with ModelRunError."""
        self._closed = True
        self._process.kill()
        with self._lock:
            self._stop()

    def _start(self) -> None:
        self._loaded = False
        self._connection, theirs = Pipe()
        environment = {
            "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2)),
            **({} if sys.stderr.isatty() else {"TQDM_DISABLE": "1"}),  # no progress bars in a log
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import work; work({theirs.fileno()}, {os.getpid()})"],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._outbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, args=(self._connection, self._outbox), daemon=True)
        self._sender.start()
        self._outbox.put(self._config)

    def _send_all(self, connection: Connection, outbox: queue.SimpleQueue[object]) -> None:
        """Runs in a thread of its own: an image does not fit into the pipe at once, and a stalled worker does not empty
        it."""
        try:
            while (message := outbox.get()) is not None:
                connection.send(message)
        except OSError:
            pass  # the worker died: reading will tell
        except Exception:
            _log.exception("the MLLM's process ends, since it cannot be told what to do")
            self._process.kill()

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._outbox.put(None)
        self._sender.join(timeout=_PARENT_POLL_S)  # the pipe that it writes to is broken
        self._connection.close()

    def _wait_until_loaded(self, cancel: threading.Event | None) -> tuple[str, int]:
        try:
            kind, content = self._receive(cancel)
        except ModelRunError as error:
            raise ModelLoadError(str(error)) from None
        if kind == "error":
            self._stop()
            raise content
        self._loaded = True
        return content

    def _ask(
        self,
        messages: Sequence[Message],
        on_text: Callable[[str], None] | None,
        cancel: threading.Event | None,
    ) -> Generation:
        call = next(self._calls)
        running = True
        try:
            self._outbox.put(("generate", call, tuple(messages)))
            while True:
                kind, of_call, content = self._receive(cancel)
                if of_call != call:
                    continue  # the rest of a call that was cancelled
                if kind == "text":
                    if on_text is not None:
                        on_text(content)
                    continue
                running = False
                if kind == "error":
                    raise content
                return content
        finally:
            if running:
                self._outbox.put(("cancel", call, None))

    def _receive(self, cancel: threading.Event | None) -> tuple:
        try:
            while not self._connection.poll(_CANCEL_POLL_S):
                _check(cancel)
            _check(cancel)
            return self._connection.recv()
        except (EOFError, OSError):
            raise self._death() from None

    def _death(self) -> ModelRunError:
        if self._closed:
            return ModelRunError("this MLLM was closed while it answered; load it again")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5.0)
        return ModelRunError(
            f"the process of the MLLM {self._config.model} {self._how_it_ended()}; the next request starts it again. "
            "If memory ran out (see `dmesg`): set quantization, lower max_pixels, or choose a smaller model"
        )

    def _how_it_ended(self) -> str:
        code = self._process.poll()
        killed = code is not None and code < 0
        return f"was killed by {signal.Signals(-code).name}" if killed else f"ended with code {code}"


def _check(cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise CancelledError("cancelled while the MLLM was answering")


def work(descriptor: int, parent: int) -> None:
    """The other process: load the model, then answer until the pipe breaks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; when it ends, so does this process
    os.nice(_NICENESS)
    connection = Connection(descriptor)
    config = connection.recv()
    requests: queue.Queue[tuple[int, tuple[Message, ...]]] = queue.Queue()
    cancels: dict[int, threading.Event] = {}
    threading.Thread(target=_listen, args=(connection, parent, requests, cancels), daemon=True).start()
    try:
        from rsvp_ros.reasoning.mllm.loading import load_mllm

        mllm = load_mllm(config, isolated=False)
    except Exception as error:
        connection.send(("error", _portable(error, ModelLoadError)))
        return
    connection.send(("loaded", (mllm.name, mllm.threads)))
    while True:
        call, messages = requests.get()

        def on_text(text: str, call: int = call) -> None:
            connection.send(("text", call, text))

        try:
            connection.send(("answer", call, mllm.generate(messages, on_text, cancels[call])))
        except Exception as error:
            connection.send(("error", call, _portable(error, ModelRunError)))
        finally:
            del cancels[call]


def _listen(connection: Connection, parent: int, requests: queue.Queue, cancels: dict[int, threading.Event]) -> None:
    """Take in requests and cancels; leave when the parent is gone.

    The parent's end of the pipe may live on in a process that the parent forked, so its process ID is checked, too.
    """
    try:
        while True:
            while not connection.poll(_PARENT_POLL_S):
                if os.getppid() != parent:
                    os._exit(0)
            kind, call, messages = connection.recv()
            if kind == "generate":
                cancels[call] = threading.Event()
                requests.put((call, messages))
            elif event := cancels.get(call):  # looked up once: a complete answer removes it
                event.set()
    except (EOFError, OSError):
        os._exit(0)
    except Exception:
        _log.exception("the MLLM worker ends, since it can take in no more requests")
    finally:  # without a listener, it could neither be cancelled nor notice that its parent has ended
        os._exit(1)


def _portable(error: Exception, kind: type[RsvpError]) -> RsvpError:
    """An exception that the other side can unpickle."""
    return type(error)(str(error)) if isinstance(error, RsvpError) else kind(f"{type(error).__name__}: {error}")
