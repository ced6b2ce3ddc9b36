"""The trainer: it learns, repeats itself, survives a kill, and does not overwrite good weights with bad ones."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from rsvp_ros.errors import ConfigurationError, ModelLoadError
from rsvp_ros.segmentation.vlsm import Vlsm, VlsmConfig
from rsvp_ros.textures import TextureBank
from rsvp_ros.training import vlsm as command
from rsvp_ros.training.dataset import MixedDataset, Shares
from rsvp_ros.training.drawn_scenes import COLORS, KINDS, is_held_out
from rsvp_ros.training.losses import compute_losses, region_weights, soft_iou
from rsvp_ros.training.prompts import PromptKind
from rsvp_ros.training.trainer import TrainConfig, Trainer, TrainingDivergedError, forward, learning_rate, train

DRAWN = Shares(tabletop=0.0, household=0.5)
SMALL = VlsmConfig(
    dim=32, heads=2, image_layers=1, stem=(8, 16, 24), two_way_layers=1, mask_dim=16, text_dim=24, text_buckets=256,
    piece_dim=16, max_words=8,
)  # fmt: skip


def config(out, **changes) -> TrainConfig:
    values = {
        "out": str(out), "steps": 6, "images": 2, "prompts": 3, "sizes": ((64, 64), (64, 96)), "textures": 6,
        "warmup_steps": 2, "checkpoint_every": 3, "validate_every": 3, "validation_batches": 1, "model": SMALL,
        "shares": DRAWN,
    }  # fmt: skip
    return TrainConfig(**(values | changes))


@pytest.fixture(scope="module")
def dataset() -> MixedDataset:
    return MixedDataset(0, ((96, 96),), 2, 4, TextureBank(np.random.default_rng(0), 8), DRAWN)


def weights(model: Vlsm) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_one_batch_can_be_learnt_by_heart(dataset):
    torch.manual_seed(0)
    model = Vlsm(SMALL)
    batch = dataset[5]  # household scenes, one description absent
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    first = None
    for _ in range(100):
        _, losses = forward(model, batch)
        first = first if first is not None else losses.to_floats()
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    last = losses.to_floats()
    assert last["total"] < 0.5 * first["total"]
    assert all(last[name] < first[name] for name in first if first[name])
    output, _ = forward(model.eval(), batch)
    known = batch.present & torch.tensor([k is not PromptKind.ABSENT for k in batch.kinds])
    region = region_weights(batch.boxes, *batch.masks.shape[-2:])
    assert soft_iou(output.masks.sigmoid(), batch.masks, region)[known].mean() > 0.5
    assert ((output.presence > 0) == batch.present).all()


def test_every_parameter_gets_a_gradient(dataset):
    torch.manual_seed(0)
    model = Vlsm(SMALL)
    forward(model, dataset[0])[1].total.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias on keys, the same for all of them, cannot change a softmax.
    assert [name for name in idle if not name.endswith(".k.bias")] == []


def test_batches_follow_from_seed_and_number(dataset):
    again = MixedDataset(0, dataset.sizes, 2, 4, TextureBank(np.random.default_rng(0), 8), DRAWN)
    one, two = dataset[5], again[5]
    assert torch.equal(one.images, two.images) and one.texts == two.texts and torch.equal(one.masks, two.masks)
    assert not torch.equal(one.images, dataset[6].images)


def test_training_twice_gives_the_same_weights(tmp_path):
    results = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer = Trainer(config(tmp_path / name, steps=3, seed=seed, validate_every=9))
        trainer.run()
        results.append(weights(trainer.model))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_resumed_equals_uninterrupted(tmp_path):
    whole = Trainer(config(tmp_path / "whole"))
    whole.run()

    killed = Trainer(config(tmp_path / "killed"))
    batches = killed.dataset

    class Killed(Exception):
        pass

    class DiesAtFive:
        def __getitem__(self, step: int):
            if step == 5:
                raise Killed
            return batches[step]

    killed.dataset = DiesAtFive()
    with pytest.raises(Killed):
        killed.run()
    resumed = Trainer(config(tmp_path / "killed"))
    assert resumed.resume() and resumed.step == 3, "the checkpoint before the kill"
    resumed.run()
    assert same(weights(whole.model), weights(resumed.model))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, listen_to):
    listen_to("rsvp_ros.training.trainer")
    first = Trainer(config(tmp_path))
    first.run()
    assert first.step == 6
    first.checkpoint.write_bytes(b"torn")
    again = Trainer(config(tmp_path))
    assert again.resume() and again.step == 3
    assert "checkpoint.pt" in caplog.text
    assert not Trainer(config(tmp_path / "empty")).resume()


def test_checkpoints_that_cannot_be_used_are_kept(tmp_path):
    """Another model, also one whose weights have the same shapes; then damaged files."""
    first = Trainer(config(tmp_path))
    first.run()
    paths = (first.checkpoint, tmp_path / "checkpoint_previous.pt")
    stored = [path.read_bytes() for path in paths]
    for change in ({"dim": 48}, {"heads": 4}):
        with pytest.raises(ConfigurationError, match=r"another `out`, or delete.*checkpoint\.pt.*previous\.pt.*model"):
            train(config(tmp_path, model=dataclasses.replace(SMALL, **change), steps=12))
        assert [path.read_bytes() for path in paths] == stored
    for path in paths:
        path.write_bytes(b"torn")
    with pytest.raises(ConfigurationError, match="another `out`"):
        train(config(tmp_path))
    assert [path.read_bytes() for path in paths] == [b"torn"] * 2


def test_a_checkpoint_that_fails_half_way_leaves_no_trace(tmp_path):
    """The model's part is good, the optimiser's is not."""
    saved = Trainer(config(tmp_path, seed=1))
    saved.save()
    state = torch.load(saved.checkpoint, weights_only=True)
    torch.save(state | {"optimizer": {"state": {}, "param_groups": []}, "step": 9}, saved.checkpoint)
    trainer = Trainer(config(tmp_path))
    before = weights(trainer.model)
    with pytest.raises(ConfigurationError, match="another `out`"):
        trainer.resume()
    assert trainer.step == 0 and same(before, weights(trainer.model))


def test_a_loss_that_is_no_number_stops_and_overwrites_nothing(tmp_path):
    trainer = Trainer(config(tmp_path))
    trainer.save()
    stored = trainer.checkpoint.read_bytes()
    with torch.no_grad():
        trainer.model.output_tokens.fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match=r"step 0.*checkpoint\.pt"):
        trainer.run()
    assert trainer.checkpoint.read_bytes() == stored
    resumed = Trainer(config(tmp_path))
    assert resumed.resume()
    assert all(p.isfinite().all() for p in resumed.model.parameters())


def test_train_leaves_weights_log_and_curve(tmp_path):
    folder = train(config(tmp_path))
    model = Vlsm.from_pretrained(folder)
    assert model.config == SMALL
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "total" in r] == [6]
    assert [r["step"] for r in records if "validation" in r] == [3, 6]
    pytest.importorskip("matplotlib")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_training_goes_on_from_given_weights(tmp_path):
    torch.manual_seed(3)
    start = Vlsm(SMALL)
    start.save_pretrained(tmp_path / "start")
    trainer = Trainer(config(tmp_path / "out", init=str(tmp_path / "start")))
    assert torch.allclose(trainer.model.output_tokens, start.output_tokens, atol=1e-3)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        Trainer(config(tmp_path / "out", init=str(tmp_path / "nowhere")))


def test_learning_rate_warms_up_stays_and_decays(tmp_path):
    c = config(tmp_path, steps=1000, warmup_steps=100, decay_share=0.5, learning_rate=1.0)
    assert learning_rate(c, 0) == pytest.approx(0.01)
    assert learning_rate(c, 99) == learning_rate(c, 499) == 1.0
    assert learning_rate(c, 750) == pytest.approx(0.5)
    assert 0 < learning_rate(c, 999) < 0.01


def test_losses_are_small_for_the_truth_and_large_for_its_opposite(dataset):
    batch = dataset[5]
    output, _ = forward(Vlsm(SMALL), batch)
    grounding = torch.full((2, len(batch.vocabulary) + 1, *batch.grounding.shape[-2:]), -9.0)
    label = batch.grounding.clamp(min=0)[:, None]
    for sign, low, high in ((1.0, 0.0, 0.1), (-1.0, 0.9, 99.0)):
        truth = dataclasses.replace(
            output, masks=sign * (batch.masks.round() * 2 - 1) * 9, presence=sign * (batch.present * 2.0 - 1) * 9
        )
        # Cells that a target covers in part cannot be hit exactly: judge with whole ones.
        whole = dataclasses.replace(batch, masks=batch.masks.round())
        losses = compute_losses(truth, whole, grounding.scatter(1, label, 9.0 * sign))
        for value in (losses.cross_entropy, losses.dice, losses.presence, losses.grounding):
            assert low <= value.item() <= high


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("{", "train.json"), ('{"out": "x", "step": 3}', "step"), ('{"out": "x", "steps": 0}', "steps"),
     ('{"out": "x", "sizes": [[50, 64]]}', "sizes"), ("[]", "train.json")],
)  # fmt: skip
def test_a_wrong_configuration_is_named(tmp_path, text, wrong):
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=wrong):
        TrainConfig.from_file(path)


def test_the_command_trains_from_a_file(tmp_path, capsys):
    path = tmp_path / "train.json"
    values = dataclasses.asdict(config(tmp_path / "ignored", steps=2))
    path.write_text(json.dumps(values))
    command.main(["--config", str(path), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "weights")
    assert (tmp_path / "out" / "weights" / "model.safetensors").is_file()
    del values["out"]
    path.write_text(json.dumps(values))
    command.main(["--config", str(path), "--out", str(tmp_path / "other"), "--steps", "1"])
    records = [json.loads(line) for line in (tmp_path / "other" / "log.jsonl").read_text().splitlines()]
    assert {r["step"] for r in records} == {1}
    with pytest.raises(ConfigurationError, match=r"train\.json.*out"):
        command.main(["--config", str(path)])
    with pytest.raises(ConfigurationError, match="missing"):
        TrainConfig.from_file(tmp_path / "missing.json")


def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="device 'toaster'"):
        Trainer(config(tmp_path, device="toaster"))


def test_pairs_kept_out_of_training_are_as_many_as_the_documentation_says():
    pairs = [is_held_out(kind, color) for kind in KINDS for color in COLORS]
    assert (sum(pairs), len(pairs)) == (7, 242)
