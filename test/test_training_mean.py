"""`rsvp train mean`: what is written, and what has no mean."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from small_training import SMALL, weights

from rsvp_ros.cli import main
from rsvp_ros.segmentation.vlsm import Vlsm


def network(folder: Path, seed: int, **changes) -> Vlsm:
    torch.manual_seed(seed)
    model = Vlsm(dataclasses.replace(SMALL, **changes))
    model.save_pretrained(folder)
    return Vlsm.from_pretrained(folder)


@pytest.mark.parametrize(("shares", "of_first"), [([], 0.5), (["--shares", "3", "1"], 0.75)])
def test_the_mean_lies_between(tmp_path, capsys, shares, of_first):
    one, two = network(tmp_path / "one", 1), network(tmp_path / "two", 2)
    (tmp_path / "one" / "README.md").write_text("figures of the first")
    out = tmp_path / "mean"
    assert main(["train", "mean", str(tmp_path / "one"), str(tmp_path / "two"), *shares, "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    found, a, b = weights(Vlsm.from_pretrained(out)), weights(one), weights(two)
    for name, value in found.items():
        torch.testing.assert_close(value, of_first * a[name] + (1 - of_first) * b[name], rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]


def test_who_wrote_the_weights_is_no_difference(tmp_path):
    for seed, version in enumerate(("5.20.2", "5.23.0")):
        folder = tmp_path / version
        network(folder, seed)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "transformers_version": version}))
    folders = [str(tmp_path / version) for version in ("5.20.2", "5.23.0")]
    assert main(["train", "mean", *folders, "--out", str(tmp_path / "mean")]) == 0


def test_of_the_same_network_it_is_that(tmp_path):
    one = network(tmp_path / "one", 1)
    network(tmp_path / "two", 1)
    folders = [str(tmp_path / name) for name in ("one", "two", "one")]
    assert main(["train", "mean", *folders, "--out", str(tmp_path / "mean")]) == 0
    found = weights(Vlsm.from_pretrained(tmp_path / "mean"))
    assert all(torch.equal(found[name], value) for name, value in weights(one).items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one"], "two networks or more"),
        (["one", "two", "--shares", "1"], "two networks or more.*the shares 1"),
        (["one", "two", "--shares", "1", "0"], "a share above 0"),
        (["one", "wider"], "differ in their config.json"),
        (["worded", "otherwise"], "differ in their tokenizer.json"),
        (["one", "unreadable"], "unreadable.config.json cannot be read"),
        (["one", "other"], "other names or sizes"),
        (["one", "damaged"], "cannot read the weights.*damaged"),
        (["one", "nothing"], "cannot read the weights.*nothing"),
        (["one", "two", "--out", "two"], "is one of the networks"),
    ],
)
def test_what_has_no_mean_is_told_and_nothing_is_written(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("one", "two", "damaged"), 1):
        network(tmp_path / name, seed)
    network(tmp_path / "wider", 1, text_dim=32)
    network(tmp_path / "other", 1, text_dim=32)
    (tmp_path / "other" / "config.json").write_bytes((tmp_path / "one" / "config.json").read_bytes())
    network(tmp_path / "unreadable", 1)
    (tmp_path / "unreadable" / "config.json").write_text("{")
    for name in ("worded", "otherwise"):
        network(tmp_path / name, 1)
        (tmp_path / name / "tokenizer.json").write_text(f'["{name}"]')
    path = tmp_path / "damaged" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    before = (tmp_path / "two" / "model.safetensors").read_bytes()
    out = [] if "--out" in arguments else ["--out", "mean"]
    assert main(["train", "mean", *arguments, *out]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(message, told), told
    assert not (tmp_path / "mean").exists()
    assert (tmp_path / "two" / "model.safetensors").read_bytes() == before
