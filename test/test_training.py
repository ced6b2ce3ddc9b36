"""The trainer: it learns, repeats itself, survives a kill, and does not overwrite good weights with bad ones."""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import numpy as np
import pytest
import torch
from hand_made_view import make_view
from small_training import DRAWN, SMALL, files_of_at_most, same, small_config, weights

from rsvp_ros.errors import ConfigurationError, InvalidImageError, ModelLoadError, ModelRunError
from rsvp_ros.segmentation.vlsm import Vlsm, VlsmConfig
from rsvp_ros.tabletop.view_files import ViewFiles, write_view
from rsvp_ros.textures import TextureBank
from rsvp_ros.training import trainer as trainer_module
from rsvp_ros.training.calibration import LOST, calibrate_presence
from rsvp_ros.training.curve import read_log
from rsvp_ros.training.dataset import Batch, MixedDataset, Shares
from rsvp_ros.training.drawn_scenes import COLORS, KINDS, is_held_out
from rsvp_ros.training.failures import TrainingDivergedError
from rsvp_ros.training.losses import compute_losses, soft_iou
from rsvp_ros.training.namings import NAMES
from rsvp_ros.training.networks import VlsmLearner
from rsvp_ros.training.optimizer import MuonAdamW, is_hidden
from rsvp_ros.training.trainer import Trainer, learning_rate, train


@pytest.fixture(scope="module")
def dataset() -> MixedDataset:
    return MixedDataset(0, ((96, 96),), 2, 4, TextureBank(np.random.default_rng(0), 8), DRAWN, SMALL.grid)


@pytest.fixture(scope="module")
def batch(dataset) -> Batch:
    """One from which all of the losses can be learnt: something is absent, and a text is about the whole image."""
    found = (dataset[number] for number in range(100))
    return next(b for b in found if 0 < b.present[b.judged].sum() < b.judged.sum() and b.exhaustive.any())


# --- learning


def test_one_batch_can_be_learnt_by_heart(batch):
    torch.manual_seed(0)
    learner = VlsmLearner(Vlsm(SMALL))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=4e-3)
    first = None
    for _ in range(100):
        _, losses = learner(batch)
        first = first or losses
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.total < 0.5 * first.total
    assert all(vars(losses)[name] < value for name, value in vars(first).items() if value)
    output, _ = learner.eval()(batch)
    assert soft_iou(output.masks.sigmoid(), batch.masks)[batch.present].mean() > 0.5
    taught = batch.judged  # of the others nobody says whether the description fits
    assert ((output.presence > 0) == batch.present)[taught].all()


def test_every_parameter_gets_a_gradient(batch):
    torch.manual_seed(0)
    learner = VlsmLearner(Vlsm(SMALL))
    learner(batch)[1].total.backward()
    idle = [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias on keys, the same for all of them, cannot change a softmax.
    assert [name for name in idle if not name.endswith(".k.bias")] == []


def test_losses_are_small_for_the_truth_and_large_for_its_opposite(batch):
    output, _ = VlsmLearner(Vlsm(SMALL))(batch)
    # Cells that a target covers in part cannot be hit exactly: judge with whole ones.
    batch = dataclasses.replace(batch, masks=batch.masks.round(), cells=batch.cells.round())
    grounding = torch.full((2, len(batch.vocabulary) + 1, *batch.grounding.shape[-2:]), -9.0)
    label = batch.grounding.clamp(min=0)[:, None]
    for sign, low, high in ((1.0, 0.0, 0.1), (-1.0, 0.8, 99.0)):
        answer = dataclasses.replace(
            output,
            masks=sign * (batch.masks * 2 - 1) * 9,
            presence=sign * (batch.present * 2.0 - 1) * 9,
            similarity=sign * (batch.cells * 2 - 1) * 9,
            quality=torch.full_like(output.quality, 9.0),
        )
        naming = torch.full((len(batch.named), NAMES), -9.0 * sign)
        naming[:, 0] *= -1
        losses = compute_losses(answer, batch, grounding.scatter(1, label, 9.0 * sign), naming)
        for name, value in vars(losses).items():
            assert low <= value.item() <= high, name


def test_what_asks_only_for_presence_has_no_mask_and_changes_none(dataset):
    asking = dataclasses.replace(dataset, questions=12)
    batch = next(b for b in (asking[number] for number in range(100)) if len(b.texts) > len(b.masks))
    count = len(batch.masks)
    assert len(batch.regions) == len(batch.pixels) == len(batch.known) == count
    assert len(batch.boxes) == len(batch.cells) == len(batch.present) == len(batch.texts)
    assert 0.2 < batch.present[count:].float().mean() < 0.8 and all(batch.texts[count:]) and batch.judged[count:].all()
    of_prompts = ("boxes", "image_index", "texts", "kinds", "cells", "present", "judged", "exhaustive")
    usual = dataclasses.replace(batch, **{name: getattr(batch, name)[:count] for name in of_prompts})
    torch.manual_seed(0)
    learner = VlsmLearner(Vlsm(SMALL)).eval()
    (more, losses), (output, usual_losses) = learner(batch), learner(usual)
    torch.testing.assert_close(more.masks, output.masks)
    torch.testing.assert_close(more.presence[:count], output.presence)
    for name in ("cross_entropy", "dice", "quality", "grounding", "naming"):
        torch.testing.assert_close(getattr(losses, name), getattr(usual_losses, name))
    assert losses.presence != usual_losses.presence


def test_names_are_compared_with_their_own_cells(batch):
    count = len(batch.named)
    assert count > 2 and len(batch.names) == NAMES * count
    torch.manual_seed(0)
    learner = VlsmLearner(Vlsm(SMALL)).eval()
    features = learner.model.encode_image(batch.images.float() / 255)
    text = learner.model.encode_text(batch.names)
    _, _, naming = learner.answer(batch)
    for i in (0, count // 2, count - 1):
        image, row, column = batch.named[i]
        whole = learner.model.comparison.grounding(features.semantic[image, None], text)[0, :-1, row, column]
        own = whole[i * NAMES : (i + 1) * NAMES]
        torch.testing.assert_close(naming[i] - naming[i, 0], own - own[0], atol=1e-3, rtol=1e-3)


def test_iou_is_that_of_masks():
    truth, guess = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    truth[:, :2], guess[0, :2], guess[1, :2, 1:3], guess[1, 3] = 1, 0.6, 0.6, 0.4
    assert soft_iou(guess, truth).tolist() == pytest.approx([1.0, 0.5])


def test_learning_rate_warms_up_stays_and_decays(tmp_path):
    c = small_config(tmp_path, steps=1000, warmup_steps=100, decay_share=0.5, learning_rate=1.0)
    assert learning_rate(c, 0) == pytest.approx(0.01)
    assert learning_rate(c, 99) == learning_rate(c, 499) == 1.0
    assert learning_rate(c, 750) == pytest.approx(0.5)
    assert 0 < learning_rate(c, 999) < 0.01


def test_muon_has_the_hidden_matrices_and_adamw_all_else(tmp_path):
    trainer = Trainer(small_config(tmp_path))
    assert isinstance(trainer.optimizer, MuonAdamW)
    first, *others = ({id(p) for p in group["params"]} for group in trainer.optimizer.param_groups)
    named = dict(trainer.model.named_parameters())
    hidden = {name for name, p in named.items() if id(p) in first}
    assert hidden == {name for name, p in named.items() if is_hidden(name, p)}
    assert {name for name, p in named.items() if id(p) in set().union(*others)} == named.keys() - hidden
    assert {"blocks.0.mlp.0.weight", "image_encoder.stage4.0.0.weight"} <= hidden
    assert hidden.isdisjoint(["text_encoder.pieces.weight", "image_encoder.stage2.0.weight", "output_tokens"])


def test_measuring_alone_needs_no_muon(tmp_path, monkeypatch):
    Vlsm(SMALL).save_pretrained(tmp_path / "start")
    monkeypatch.delattr(torch.optim, "Muon")
    trainer = Trainer(small_config(tmp_path / "out", steps=0, init=str(tmp_path / "start")))
    assert type(trainer.optimizer) is torch.optim.AdamW


# --- the same again


def test_batches_follow_from_seed_and_number(dataset):
    again = MixedDataset(0, dataset.sizes, 2, 4, TextureBank(np.random.default_rng(0), 8), DRAWN, SMALL.grid)
    one, two = dataset[5], again[5]
    assert torch.equal(one.images, two.images) and one.texts == two.texts and torch.equal(one.masks, two.masks)
    assert not torch.equal(one.images, dataset[6].images)


def test_training_twice_gives_the_same_weights(tmp_path, monkeypatch):
    """One process needs no accelerate."""
    monkeypatch.setitem(sys.modules, "accelerate", None)
    results = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer = Trainer(small_config(tmp_path / name, steps=3, seed=seed, validate_every=9))
        trainer.run()
        results.append(weights(trainer.model))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


class Killed(Exception):
    pass


class DiesAt:
    """A dataset."""

    def __init__(self, batches: MixedDataset, number: int) -> None:
        self.batches, self.number = batches, number

    def __getitem__(self, number: int):
        if number == self.number:
            raise Killed
        return self.batches[number]


def log_without_times(folder) -> list[dict]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def test_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    monkeypatch.setattr("rsvp_ros.training.report.LOG_EVERY", 1)
    whole = Trainer(small_config(tmp_path / "whole"))
    whole.run()

    killed = Trainer(small_config(tmp_path / "killed"))
    killed.dataset = DiesAt(killed.dataset, 5)
    with pytest.raises(Killed):
        killed.run()
    assert log_without_times(tmp_path / "killed")[-1]["step"] == 5
    resumed = Trainer(small_config(tmp_path / "killed"))
    assert resumed.resume() and resumed.step == 3, "the checkpoint before the kill"
    resumed.run()
    assert same(weights(whole.model), weights(resumed.model))
    # Steps 4 and 5 were taken twice, but the log tells of them once.
    log = log_without_times(tmp_path / "killed")
    assert [r["step"] for r in log if "total" in r] == [1, 2, 3, 4, 5, 6]
    assert log == log_without_times(tmp_path / "whole")


def test_training_goes_on_from_given_weights(tmp_path):
    torch.manual_seed(3)
    start = Vlsm(SMALL)
    start.save_pretrained(tmp_path / "start")
    trainer = Trainer(small_config(tmp_path / "out", init=str(tmp_path / "start")))
    assert torch.allclose(trainer.model.output_tokens, start.output_tokens, atol=1e-3)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        Trainer(small_config(tmp_path / "out", init=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigurationError, match=r"option `model` is another size.*dim 32 for 160.*leave it out"):
        Trainer(small_config(tmp_path / "more", init="embedded"))
    embedded = Trainer(small_config(tmp_path / "more", init="embedded", model=VlsmConfig())).model
    assert same(weights(embedded), weights(Vlsm.from_pretrained("embedded")))


def test_given_weights_become_deeper_and_compute_the_same(tmp_path):
    """Their new layers add nothing at first, and learn."""
    torch.manual_seed(3)
    start = Vlsm(SMALL).eval()
    start.save_pretrained(tmp_path / "start")
    start = Vlsm.from_pretrained(tmp_path / "start")
    more = dataclasses.replace(SMALL, image_layers=SMALL.image_layers + 2)
    deeper = Trainer(small_config(tmp_path / "out", init=str(tmp_path / "start"), model=more)).model
    assert deeper.config == more and len(deeper.image_encoder.layers) == more.image_layers
    image = torch.rand(1, 3, 64, 96)
    tokens = deeper.encode_image(image).tokens
    assert torch.allclose(tokens, start.encode_image(image).tokens, atol=1e-5)
    (tokens * torch.rand_like(tokens)).sum().backward()
    assert all(layer.mlp[-1].weight.grad.abs().max() > 0 for layer in deeper.image_encoder.layers)
    deeper.save_pretrained(tmp_path / "deeper")
    assert Vlsm.from_pretrained(tmp_path / "deeper").config == more
    with pytest.raises(ConfigurationError, match=r"image_layers \d for \d"):
        Trainer(small_config(tmp_path / "less", init=str(tmp_path / "deeper"), model=SMALL))


def test_without_a_step_given_weights_are_measured_and_calibrated(tmp_path):
    start = Vlsm(SMALL)
    start.save_pretrained(tmp_path / "start")
    found = train(small_config(tmp_path / "out", steps=0, init=str(tmp_path / "start")))
    before, after = weights(start.half().float()), weights(Vlsm.from_pretrained(found))
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["presence_head.2.bias"]
    (record,) = read_log(tmp_path / "out" / "log.jsonl")
    assert record["step"] == 0 and "present accepted" in record["validation"]
    assert not list(tmp_path.glob("out/checkpoint*"))


def test_measuring_given_weights_overwrites_no_training(tmp_path):
    finished = train(small_config(tmp_path / "out", steps=2)) / "model.safetensors"
    before = finished.read_bytes()
    with pytest.raises(ConfigurationError, match="holds a training.*choose another `out`"):
        train(small_config(tmp_path / "out", steps=0, init=str(finished.parent)))
    assert finished.read_bytes() == before


# --- checkpoints


def test_a_checkpoint_that_says_nothing_of_processes_is_of_one(tmp_path):
    trainer = Trainer(small_config(tmp_path))
    trainer.step = 4
    trainer.save()
    path = trainer.checkpoints.newest
    state = torch.load(path, weights_only=True)
    needed = {"model", "optimizer", "step", "seconds", "model_config"}
    assert needed <= set(state) and state["model"].keys() == trainer.model.state_dict().keys()
    torch.save({name: state[name] for name in needed}, path)
    again = Trainer(small_config(tmp_path))
    assert again.resume() and again.step == 4


def test_weights_that_are_no_numbers_are_neither_kept_nor_resumed_from(tmp_path):
    trainer = Trainer(small_config(tmp_path))
    trainer.save()
    good = trainer.checkpoints.newest.read_bytes()
    state = torch.load(trainer.checkpoints.newest, weights_only=True)
    with torch.no_grad():
        next(trainer.learner.trained.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match="learning_rate"):
        trainer.save()
    assert trainer.checkpoints.newest.read_bytes() == good
    next(iter(state["model"].values())).fill_(float("nan"))
    trainer.checkpoints.write(state | {"step": 7})
    again = Trainer(small_config(tmp_path))
    assert again.resume() and again.step == 0, "from the one before"


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, listen_to):
    listen_to("rsvp_ros.training.checkpoint")
    first = Trainer(small_config(tmp_path))
    first.run()
    assert first.step == 6
    first.checkpoints.newest.write_bytes(b"torn")
    again = Trainer(small_config(tmp_path))
    assert again.resume() and again.step == 3
    assert "checkpoint.pt" in caplog.text
    good = again.checkpoints.previous.read_bytes()
    again.save()
    assert again.checkpoints.previous.read_bytes() == good, "the torn one has not taken its place"
    again.save()
    assert again.checkpoints.previous.read_bytes() != good
    assert not Trainer(small_config(tmp_path / "empty")).resume()


def test_checkpoints_that_cannot_be_used_are_kept(tmp_path):
    """Another model, also one whose weights have the same shapes; then damaged files."""
    first = Trainer(small_config(tmp_path))
    first.run()
    paths = (first.checkpoints.newest, first.checkpoints.previous)
    stored = [path.read_bytes() for path in paths]
    for change in ({"dim": 48}, {"heads": 4}):
        with pytest.raises(ConfigurationError, match=r"another `out`, or delete.*checkpoint\.pt.*previous\.pt.*model"):
            train(small_config(tmp_path, model=dataclasses.replace(SMALL, **change), steps=12))
        assert [path.read_bytes() for path in paths] == stored
    for path in paths:
        torch.save({"size": {}, "step": 3}, path)
    with pytest.raises(ConfigurationError, match="lacks .*another kind of training"):
        train(small_config(tmp_path))
    for path in paths:
        path.write_bytes(b"torn")
    with pytest.raises(ConfigurationError, match="another `out`"):
        train(small_config(tmp_path))
    assert [path.read_bytes() for path in paths] == [b"torn"] * 2


def optimizer_state(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        f"{part} {number} {name}": value.clone()
        for part, half in trainer.optimizer.state_dict().items()
        for number, values in half["state"].items()
        for name, value in values.items()
    }


def test_what_is_not_judged_counts_for_no_figure_of_presence(tmp_path, monkeypatch):
    """Names that are said of dead leaves are neither there nor not."""
    trainer = Trainer(small_config(tmp_path))
    before = trainer.validate()
    assert trainer_module.ACCEPTED in before
    batch_of = type(trainer._dataset(held_out=True)).__getitem__

    def unjudged(dataset, number):
        batch = batch_of(dataset, number)
        return dataclasses.replace(batch, judged=torch.zeros_like(batch.judged))

    monkeypatch.setattr(type(trainer._dataset(held_out=True)), "__getitem__", unjudged)
    after = trainer.validate()
    assert trainer_module.ACCEPTED not in after
    assert {name: value for name, value in before.items() if name != trainer_module.ACCEPTED} == after


def test_a_checkpoint_that_fails_half_way_leaves_no_trace(tmp_path):
    """The model's part is good, and Muon's; AdamW's is not."""
    saved, trainer = (Trainer(small_config(tmp_path, seed=seed)) for seed in (1, 0))
    for either in (saved, trainer):
        either.train_step(either.dataset[0])
    saved.save()
    path = saved.checkpoints.newest
    state = torch.load(path, weights_only=True)
    bad = state["optimizer"] | {"adam": {"state": {}, "param_groups": []}}
    torch.save(state | {"optimizer": bad, "step": 9}, path)
    before = weights(trainer.model), optimizer_state(trainer)
    assert not same(before[1], optimizer_state(saved))
    with pytest.raises(ConfigurationError, match="another `out`.*parameter groups"):
        trainer.resume()
    assert trainer.step == 1 and same(before[0], weights(trainer.model)) and same(before[1], optimizer_state(trainer))


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_kill_while_a_checkpoint_is_written_leaves_one(tmp_path, monkeypatch, renamed):
    trainer = Trainer(small_config(tmp_path))
    for trainer.step in (1, 2):
        trainer.save()
    rename, left = os.replace, [renamed]

    def dies(source, target):
        if not left[0]:
            raise Killed
        left[0] -= 1
        rename(source, target)

    monkeypatch.setattr(os, "replace", dies)
    trainer.step = 3
    with pytest.raises(Killed):
        trainer.save()
    monkeypatch.undo()
    again = Trainer(small_config(tmp_path))
    assert again.resume() and again.step == 2


def test_a_disk_that_takes_no_more_stops_and_overwrites_nothing(tmp_path):
    trainer = Trainer(small_config(tmp_path))
    for trainer.step in (1, 2):
        trainer.save()
    paths = (trainer.checkpoints.newest, trainer.checkpoints.previous)
    stored = [path.read_bytes() for path in paths]
    with files_of_at_most(len(stored[0]) // 2), pytest.raises(ConfigurationError, match="cannot be written to"):
        trainer.run()
    assert [path.read_bytes() for path in paths] == stored
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*next*"))

    # A device that is full from the first byte on.
    (tmp_path / ".checkpoint_next.pt.part").symlink_to("/dev/full")
    with pytest.raises(ConfigurationError, match=f"no space is left for {tmp_path}.*free some"):
        trainer.save()
    assert [path.read_bytes() for path in paths] == stored


def test_a_full_disk_stops_the_log_and_the_weights_too(tmp_path):
    trainer = Trainer(small_config(tmp_path, steps=1, checkpoint_every=9))
    trainer.run()
    os.replace(tmp_path / "log.jsonl", tmp_path / "old.jsonl")
    (tmp_path / ".log.jsonl.part").symlink_to("/dev/full")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / ".model.safetensors.part").symlink_to("/dev/full")
    with pytest.raises(ConfigurationError, match="no space is left"):
        os.replace(tmp_path / "old.jsonl", tmp_path / "log.jsonl")
        train(small_config(tmp_path, steps=1))
    with pytest.raises(ConfigurationError, match=r"no space is left for .*weights"):
        train(small_config(tmp_path, steps=1))


# --- what goes wrong


def test_a_loss_that_is_no_number_stops_and_overwrites_nothing(tmp_path):
    trainer = Trainer(small_config(tmp_path))
    trainer.save()
    stored = trainer.checkpoints.newest.read_bytes()
    with torch.no_grad():
        trainer.model.output_tokens.fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match=r"step 0.*checkpoint\.pt"):
        trainer.run()
    assert trainer.checkpoints.newest.read_bytes() == stored
    resumed = Trainer(small_config(tmp_path))
    assert resumed.resume()
    assert all(p.isfinite().all() for p in resumed.model.parameters())


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ("", "not finite at step 0; there is no checkpoint yet: lower `learning_rate` and start again$"),
        ("newest", r"step 0; .*/checkpoint\.pt holds the last good weights: lower `learning_rate`.* from there$"),
        ("previous", r"step 0; .*/checkpoint_previous\.pt holds the last good weights: "),
    ],
)
def test_a_gradient_that_is_no_number_does_not_reach_the_weights(tmp_path, kept, told):
    trainer = Trainer(small_config(tmp_path))
    for _ in range(2 * bool(kept)):
        trainer.save()
    if kept == "previous":
        trainer.checkpoints.newest.write_bytes(b"torn")
        assert trainer.resume()
    before = weights(trainer.model)
    trainer.model.comparison.background.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingDivergedError, match=told):
        trainer.run()
    assert same(before, weights(trainer.model)) and trainer.checkpoints.newest.exists() == bool(kept)


@pytest.fixture
def tabletop(tmp_path):
    """A folder as `rsvp tabletop export` writes it, with one scene to train on and one held out."""
    folder = tmp_path / "tabletop"
    for seed in range(2):
        write_view(ViewFiles.among(folder, f"train_{seed:06}"), make_view(), (), {"split": "train", "seed": seed})
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_image_is_named(tmp_path, tabletop, workers):
    """Also where another process misses it: with no other's traceback in the message."""
    c = small_config(tmp_path / "out", shares=Shares(1.0, 0.0), tabletop=(str(tabletop),), workers=workers)
    trainer = Trainer(c)
    assert trainer.dataset[0].present.any(), "as long as it is there it is used"
    trainer.save()
    stored = trainer.checkpoints.newest.read_bytes()
    missing = tabletop / "images" / "train_000001.jpg"
    missing.unlink()
    with pytest.raises(InvalidImageError) as caught:
        train(c)
    assert str(missing) in str(caught.value).replace("scenes/../", "") and "Traceback" not in str(caught.value)
    assert trainer.checkpoints.newest.read_bytes() == stored
    if workers:
        return
    (tabletop / "scenes" / "train_000001.json").unlink()
    with pytest.raises(InvalidImageError, match=r"train_000001\.json"):
        trainer.run()


def test_too_little_memory_is_said(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(trainer_module.Trainer, "train_step", fails)
    with pytest.raises(ModelRunError, match="fewer `images`"):
        train(small_config(tmp_path))


def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="device 'toaster'"):
        Trainer(small_config(tmp_path, device="toaster"))


def test_the_gpu_is_taken_where_there_is_one(tmp_path):
    trainer = Trainer(small_config(tmp_path, device="auto"))
    assert trainer.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_pairs_kept_out_of_training_are_as_many_as_the_documentation_says():
    pairs = [is_held_out(kind, color) for kind in KINDS for color in COLORS]
    assert (sum(pairs), len(pairs)) == (7, 242)


def test_presence_is_shifted_to_lose_little(tmp_path):
    """Whatever the network said before, the threshold then calls one in forty absent of what is there."""
    trainer = Trainer(small_config(tmp_path, validation_batches=4))
    batches = [trainer.dataset[number] for number in range(30)]

    def presences() -> torch.Tensor:
        found = []
        with torch.no_grad():
            for batch in batches:
                described = torch.tensor([bool(text) for text in batch.texts])
                found.append(trainer.learner.eval()(batch)[0].presence[batch.present & batch.judged & described])
        return torch.cat(found)

    with torch.no_grad():
        trainer.model.presence_head[-1].bias.sub_(3.0)
    before = presences()
    assert (before.sigmoid() < 0.3).float().mean() > 0.5
    shift = calibrate_presence(trainer.learner, batches)
    after = presences()
    assert torch.allclose(after, before + shift, atol=1e-4)
    assert (after.sigmoid() < 0.3).float().mean() == pytest.approx(LOST, abs=0.02)


def test_nothing_is_shifted_where_nothing_is_there(tmp_path):
    trainer = Trainer(small_config(tmp_path))
    before = weights(trainer.model)
    assert calibrate_presence(trainer.learner, []) == 0
    assert same(before, weights(trainer.model))
