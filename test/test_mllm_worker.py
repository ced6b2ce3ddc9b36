"""WorkerMllm: the same answers from another process, which dies alone and never outlives its parent."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Pipe
from pathlib import Path

import numpy as np
import pytest
from tiny_mllm import build_tiny_mllm

from rsvp_ros.errors import CancelledError, ModelLoadError, ModelRunError
from rsvp_ros.reasoning.mllm.base import Message
from rsvp_ros.reasoning.mllm.loading import load_mllm
from rsvp_ros.reasoning.mllm.transformers_mllm import TransformersConfig, TransformersMllm
from rsvp_ros.reasoning.mllm.worker import WorkerMllm, _listen

ANSWER = "The knife, 包丁, lies at the top left; " * 20
QUESTION = [Message("system", "You find things."), Message("user", "Where?", (np.zeros((1080, 1920, 3), np.uint8),))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen3-vl"
    build_tiny_mllm(folder, ANSWER)
    return folder


@pytest.fixture(scope="module")
def mllm(folder):
    mllm = load_mllm(TransformersConfig(str(folder), device="cpu"))
    yield mllm
    mllm.close()
    assert has_ended(mllm.pid)


def wait_for(condition: Callable[[], bool], deadline_s: float = 60.0) -> bool:
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def has_ended(pid: int) -> bool:
    """No such process, or one that only waits to be reaped by whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # it was gone before, or went between opening and reading
        return True


def test_answers_as_in_process(mllm, folder):
    here = TransformersMllm(TransformersConfig(str(folder), device="cpu"))
    expected = here.generate(QUESTION)
    here.close()
    pieces, threads = [], set()

    def on_text(piece: str) -> None:
        pieces.append(piece)
        threads.add(threading.get_ident())

    assert isinstance(mllm, WorkerMllm)
    assert mllm.pid != os.getpid()
    assert mllm.name == "tiny-qwen3-vl"
    assert mllm.generate(QUESTION, on_text) == expected
    assert "".join(pieces) == expected.text == ANSWER
    assert len(pieces) > 50
    assert threads == {threading.get_ident()}


def test_gives_way_to_the_segmenter(mllm):
    assert os.getpriority(os.PRIO_PROCESS, mllm.pid) == 19
    assert mllm.threads == int(os.environ["OMP_NUM_THREADS"])


def test_text_comes_while_the_model_still_writes(mllm):
    """The first piece is here before the whole answer can be: with the worker stopped after it, no end comes."""
    first = threading.Event()
    answers = []

    def on_text(_: str) -> None:
        if not first.is_set():
            os.kill(mllm.pid, signal.SIGSTOP)
            first.set()

    thread = threading.Thread(target=lambda: answers.append(mllm.generate(QUESTION, on_text)))
    thread.start()
    try:
        assert first.wait(60)
        thread.join(0.5)
        assert not answers
    finally:
        os.kill(mllm.pid, signal.SIGCONT)
    thread.join(60)
    assert answers[0].text == ANSWER


def test_a_cancel_returns_although_the_worker_hangs(mllm):
    cancel = threading.Event()

    def on_text(_: str) -> None:
        os.kill(mllm.pid, signal.SIGSTOP)
        threading.Timer(0.2, cancel.set).start()

    try:
        with pytest.raises(CancelledError):
            mllm.generate(QUESTION, on_text, cancel)
    finally:
        os.kill(mllm.pid, signal.SIGCONT)
    assert mllm.generate(QUESTION).text == ANSWER


def test_requests_to_a_worker_that_hangs_can_be_cancelled_too(mllm):
    """An image is larger than what the pipe to the worker takes."""
    os.kill(mllm.pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            cancel = threading.Event()
            threading.Timer(0.2, cancel.set).start()
            with pytest.raises(CancelledError):
                mllm.generate(QUESTION, cancel=cancel)
    finally:
        os.kill(mllm.pid, signal.SIGCONT)
    assert mllm.generate(QUESTION).text == ANSWER


def test_a_worker_that_hangs_can_be_closed(folder):
    mllm = load_mllm(TransformersConfig(str(folder), device="cpu"))
    os.kill(mllm.pid, signal.SIGSTOP)
    errors = []

    def ask() -> None:
        try:
            mllm.generate(QUESTION)
        except ModelRunError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert wait_for(mllm._lock.locked)
    mllm.close()
    thread.join(60)
    (error,) = errors
    assert "was closed while it answered" in str(error)
    assert has_ended(mllm.pid)


def test_a_cancel_while_another_call_has_the_model(mllm):
    cancel, started = threading.Event(), threading.Event()
    answers = []

    def ask() -> None:
        answers.append(mllm.generate(QUESTION, lambda _: started.set()))

    thread = threading.Thread(target=ask)
    thread.start()
    assert started.wait(60)
    os.kill(mllm.pid, signal.SIGSTOP)
    try:
        threading.Timer(0.2, cancel.set).start()
        with pytest.raises(CancelledError):
            mllm.generate(QUESTION, cancel=cancel)
    finally:
        os.kill(mllm.pid, signal.SIGCONT)
    thread.join(60)
    assert answers[0].text == ANSWER


def test_errors_keep_their_class_and_message(mllm, tmp_path):
    with pytest.raises(ModelRunError, match="tiny-qwen3-vl failed.*aspect ratio"):
        mllm.generate([Message("user", "Where?", (np.zeros((1, 500, 3), np.uint8),))])
    with pytest.raises(ModelLoadError, match=r"no model folder .*nothing.*hf download"):
        load_mllm(TransformersConfig(str(tmp_path / "nothing")))
    assert mllm.generate(QUESTION).text == ANSWER


def test_an_error_of_the_caller_stops_the_model(mllm):
    def on_text(_: str) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        mllm.generate(QUESTION, on_text)
    assert mllm.generate(QUESTION).text == ANSWER


def test_a_killed_worker_is_an_error_and_the_next_call_starts_it_again(mllm):
    killed = mllm.pid
    with pytest.raises(ModelRunError, match=r"killed by SIGKILL.*starts it again.*max_pixels"):
        mllm.generate(QUESTION, lambda _: os.kill(killed, signal.SIGKILL))
    assert mllm.generate(QUESTION).text == ANSWER
    assert mllm.pid != killed
    assert has_ended(killed)


def test_a_worker_that_cannot_listen_any_more_ends(mllm):
    deaf = mllm.pid
    mllm._connection.send("neither a request nor a cancel")
    assert wait_for(lambda: mllm._process.poll() is not None)
    assert mllm.generate(QUESTION).text == ANSWER
    assert mllm.pid != deaf


def test_a_cancel_that_comes_just_when_the_answer_is_complete(monkeypatch):
    """The listening and the answering thread of the worker, with the switch between them at the worst place."""

    class AnsweredMeanwhile(dict):
        def __contains__(self, call) -> bool:
            return self.pop(call, None) is not None

    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _: ended.set())
    ours, theirs = Pipe()
    requests: queue.Queue = queue.Queue()
    arguments = (theirs, os.getppid(), requests, AnsweredMeanwhile())
    listener = threading.Thread(target=_listen, args=arguments)
    listener.start()
    for message in (("generate", 1, ()), ("cancel", 1, None), ("cancel", 2, None), ("generate", 3, ())):
        ours.send(message)
    try:
        assert [requests.get(timeout=30)[0] for _ in range(2)] == [1, 3]
        assert not ended.is_set()
    finally:
        ours.close()
        listener.join(30)
    assert ended.is_set()
    theirs.close()


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[2])  # known to this process alone
from my_robot import Config
from rsvp_ros.reasoning.mllm.loading import load_mllm
mllm = load_mllm(Config(sys.argv[1], device="cpu"))  # no guard around it: the main module is run once only
print(mllm.pid, flush=True)
time.sleep(600)
"""


def test_never_outlives_its_parent(folder, tmp_path):
    script = tmp_path / "node"  # without .py, as ROS installs executables
    script.write_text(SCRIPT)
    (tmp_path / "lib").mkdir()
    base = "from rsvp_ros.reasoning.mllm.transformers_mllm import TransformersConfig"
    (tmp_path / "lib" / "my_robot.py").write_text(f"{base}\nclass Config(TransformersConfig):\n    pass\n")
    command = [sys.executable, str(script), str(folder), str(tmp_path / "lib")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as parent:
        try:
            worker = int(parent.stdout.readline())
            assert not has_ended(worker)
        finally:
            parent.kill()
    assert wait_for(lambda: has_ended(worker))


def test_an_endless_answer_is_stopped_by_a_cancel_and_by_close(folder, tmp_path):
    endless = shutil.copytree(folder, tmp_path / "endless")
    settings = json.loads((endless / "generation_config.json").read_text())
    (endless / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": settings["pad_token_id"]}))
    mllm = load_mllm(TransformersConfig(str(endless), device="cpu", max_new_tokens=1_000_000))
    cancel = threading.Event()
    with pytest.raises(CancelledError):
        mllm.generate(QUESTION, lambda _: cancel.set(), cancel)

    # the model is free for the next call
    too_late = threading.Event()
    timer = threading.Timer(60, too_late.set)
    timer.start()
    with pytest.raises(ModelRunError, match="closed"):
        mllm.generate(QUESTION, lambda _: close_from_another_thread(mllm), too_late)
    timer.cancel()
    assert wait_for(lambda: has_ended(mllm.pid))
    with pytest.raises(ModelRunError, match="closed"):
        mllm.generate(QUESTION)
    mllm.close()  # twice does no harm


def close_from_another_thread(mllm: WorkerMllm) -> None:
    threading.Thread(target=mllm.close).start()
    assert wait_for(lambda: has_ended(mllm.pid))
