"""Several processes that train one network, started as a user starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_training import same, small_config, weights
from two_processes import OPTIONS

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.training.curve import read_log
from rsvp_ros.training.networks import VlsmLearner
from rsvp_ros.training.optimizer import is_hidden, set_learning_rate
from rsvp_ros.training.processes import OneProcess, start_processes
from rsvp_ros.training.trainer import Trainer, learning_rate

TEST = Path(__file__).resolve().parent


def launch(script: Path, *arguments: str) -> None:
    """Two processes without a GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port), str(script),
        *arguments,
    ]  # fmt: skip
    path = os.pathsep.join(filter(None, (str(TEST.parent), os.environ.get("PYTHONPATH"))))
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_two_processes_train_as_one_with_twice_the_images(tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    launch(TEST / "two_processes.py", str(tmp_path))
    ends = [torch.load(tmp_path / f"weights_{rank}.pt", weights_only=True) for rank in range(2)]
    (begin, _), with_muon, (end, other_end) = zip(*ends, strict=True)
    assert same(*with_muon) and same(end, other_end)

    monkeypatch.setattr(VlsmLearner, "muon", False)
    alone = Trainer(small_config(tmp_path / "alone", **OPTIONS))
    start = weights(alone.model)
    assert same(begin, start)
    still = [n for n, p in alone.model.named_parameters() if is_hidden(n, p) and torch.equal(with_muon[0][n], start[n])]
    assert still == []
    losses = []
    for step in range(4):
        set_learning_rate(alone.optimizer, learning_rate(alone.config, step))
        alone.optimizer.zero_grad()
        for number in (2 * step, 2 * step + 1):
            _, loss = alone.learner(alone.dataset[number])
            (loss.total / 2).backward()
            losses.append(loss.total.item())
        torch.nn.utils.clip_grad_norm_(alone.model.parameters(), alone.config.clip_norm)
        alone.optimizer.step()
    for name, value in weights(alone.model).items():
        if name.endswith(".k.bias"):  # has no gradient but for rounding
            continue
        moved = (value - start[name]).abs().max()
        assert (end[name] - value).abs().max() <= 0.02 * moved + 1e-6, name

    # One of them writes, and what it writes is about both.
    log = read_log(tmp_path / "plain" / "log.jsonl")
    assert [sorted(record)[0] for record in log] == ["cross_entropy", "step"]
    assert log[0]["total"] == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    alone.model.load_state_dict(end)
    assert log[1]["validation"] == pytest.approx(alone.validate(), abs=2e-4)

    with pytest.raises(ConfigurationError, match="made by 2 processes, and here are 1"):
        Trainer(small_config(tmp_path / "whole", **OPTIONS)).resume()


def test_accelerate_is_asked_for_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert isinstance(start_processes("cpu", "bfloat16"), OneProcess)
    with pytest.raises(ConfigurationError, match=r"float16, need accelerate.*rsvp_ros\[train\]"):
        start_processes("cpu", "float16")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match=r"several processes.*rsvp_ros\[train\]"):
        start_processes("cpu", "float32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="float16 works on a GPU")
def test_float16_needs_a_gpu():
    with pytest.raises(ConfigurationError, match="device 'cuda' cannot be used"):
        start_processes("cpu", "float16")


def test_one_device_among_several_is_no_choice_for_several_processes(monkeypatch):
    pytest.importorskip("accelerate")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="'cuda:1' cannot be used with several.*CUDA_VISIBLE_DEVICES"):
        start_processes("cuda:1", "float32")
