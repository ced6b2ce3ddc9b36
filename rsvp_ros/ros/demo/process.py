"""The node as a process, and Ctrl-C, which must leave nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ament_index_python.packages import get_package_prefix

NAMESPACE = "rsvp"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(Exception):
    """The demo cannot go on; the message is for the person who started it."""


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C and the like until the end of the block, where they raise KeyboardInterrupt."""
    held: list[int] = []
    previous = {number: signal.signal(number, lambda number, _: held.append(number)) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if held:
        raise KeyboardInterrupt


class Worker:
    """Does the work in a thread of its own, and keeps what it raised for whoever waits for it.

    So Ctrl-C finds the main thread waiting: in the middle of the work it could be raised in Python code that a C
    extension calls (rosidl's message constructors), which prints it and goes on. Also, what fails because ROS was shut
    down meanwhile is not printed.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Wait until the work is done. Raises what it raised."""
        while self.thread.is_alive():
            self.thread.join(0.2)
        if self._error is not None:
            raise self._error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error


class NodeProcess:
    """`rsvp_node` with the parameters in a file, until `stop`."""

    def __init__(self, params_file: Path, log: Path) -> None:
        self._log = log
        executable = Path(get_package_prefix("rsvp_ros")) / "lib" / "rsvp_ros" / "rsvp_node"
        command = [sys.executable, str(executable), "--ros-args"]
        command += ["-r", f"__ns:=/{NAMESPACE}", "--params-file", str(params_file)]
        with log.open("w") as file:
            self.started = time.monotonic()
            # A session of its own: Ctrl-C in the terminal reaches only the demo, which then ends the node properly.
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float, every_s: float = 0.01) -> None:
        """Raises DemoError if the node ends before the condition holds, or if that takes too long.

        The condition is checked every `every_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            status = self._process.poll()
            if status is not None:
                raise DemoError(f"rsvp_node ended by itself with status {status}")
            if time.monotonic() > deadline:
                raise DemoError(f"{what} within {timeout_s:g} s")
            time.sleep(every_s)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End the node as Ctrl-C does; by force if that does not help."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
