"""How long an MLLM call still takes after it is cancelled, whatever it is doing. The contract is 200 ms.

    PYTHONPATH=.:test python benchmark/mllm_cancel.py [--repeat 20] [--json FILE]

The server is the tests' real HTTP server on this machine (test/mllm_server.py), the local model their tiny Qwen3-VL
(test/tiny_mllm.py). For a larger model, add the time of one layer if it runs in this process, nothing if it runs in a
worker process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from mllm_server import RecordedServer, Reply, unanswered_url
from tiny_mllm import build_tiny_mllm

from rsvp_ros.errors import CancelledError
from rsvp_ros.reasoning.mllm.base import Message, Mllm
from rsvp_ros.reasoning.mllm.loading import load_mllm
from rsvp_ros.reasoning.mllm.openai_mllm import OpenAiConfig
from rsvp_ros.reasoning.mllm.transformers_mllm import TransformersConfig

CONTRACT_S = 0.2
QUESTION = [Message("user", "Where is it?", (np.zeros((480, 640, 3), np.uint8),))]


def latency_s(mllm: Mllm, delay_s: float | None) -> float:
    """Time from setting `cancel` to the end of the call; it is set after `delay_s`, or (None) at the first text."""
    cancel = threading.Event()
    when: list[float] = []

    def set_cancel(*_: str) -> None:
        if not when:
            when.append(time.perf_counter())
            cancel.set()

    timer = threading.Timer(delay_s or 0.0, set_cancel)
    if delay_s is not None:
        timer.start()
    with contextlib.suppress(CancelledError):
        mllm.generate(QUESTION, set_cancel if delay_s is None else None, cancel)
        raise RuntimeError("the call ended by itself, not by the cancel")
    return time.perf_counter() - when[0]


@contextlib.contextmanager
def server(reply: Reply) -> Iterator[Mllm]:
    with RecordedServer(reply) as recorded, closing(OpenAiConfig(recorded.url, model="recorded-mllm")) as mllm:
        yield mllm


@contextlib.contextmanager
def closing(config: OpenAiConfig | TransformersConfig, isolated: bool = True) -> Iterator[Mllm]:
    mllm = load_mllm(config, isolated)
    try:
        yield mllm
    finally:
        mllm.close()


def measure(name: str, mllm: Mllm, repeat: int, delay: Callable[[], float] | None) -> dict:
    times = np.array([latency_s(mllm, delay() if delay else None) for _ in range(repeat)])
    return {
        "where": name,
        "median_ms": round(float(np.median(times)) * 1e3, 1),
        "max_ms": round(float(times.max()) * 1e3, 1),
        "n": repeat,
        "within_contract": bool((times < CONTRACT_S).all()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=20, help="number of cancellations in each case")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    logging.getLogger("rsvp_ros").setLevel(logging.ERROR)
    random = np.random.default_rng(0)

    def some_time() -> float:
        return float(random.uniform(0.1, 0.3))

    results = []

    def add(*arguments) -> None:
        results.append(measure(*arguments))
        print("{where:32s} median {median_ms:6.1f} ms   max {max_ms:6.1f} ms   n {n}".format(**results[-1]), flush=True)

    with unanswered_url() as url, closing(OpenAiConfig(url, model="none", connect_timeout_s=60.0)) as mllm:
        add("server: connecting", mllm, options.repeat, some_time)
    with server(Reply("never", hang_at=0)) as mllm:
        add("server: before the first token", mllm, options.repeat, some_time)
    with server(Reply("in part", hang_at=1)) as mllm:
        add("server: stream that hangs", mllm, options.repeat, some_time)
    with server(Reply(status=429, headers={"Retry-After": "60"})) as mllm:
        add("server: between retries", mllm, options.repeat, some_time)
    with tempfile.TemporaryDirectory() as folder:
        build_tiny_mllm(Path(folder), "A long answer that is cancelled at its first piece. " * 20)
        config = TransformersConfig(folder, device="cpu")
        for isolated in (False, True):
            with closing(config, isolated) as mllm:
                where = "a process of its own" if isolated else "this process"
                add(f"model in {where}", mllm, options.repeat, None)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if not all(result["within_contract"] for result in results):
        sys.exit(f"slower than {CONTRACT_S * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
