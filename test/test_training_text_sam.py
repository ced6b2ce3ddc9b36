"""The same trainer for a text path on a SAM or SAM 2: right places in its input, and only the text path is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_sams
import torch
from small_training import same, small_config, weights

from rsvp_ros.errors import ConfigurationError, ModelLoadError
from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.segmentation.modeling.text_path import Gate, TextPathSize
from rsvp_ros.segmentation.text_sam import TextSam
from rsvp_ros.segmentation.text_sam_segmenter import TextSamSegmenter
from rsvp_ros.segmentation.vlsm import VlsmConfig, VlsmOutput
from rsvp_ros.training.config import TrainConfig
from rsvp_ros.training.dataset import Batch, collate
from rsvp_ros.training.drawn_scenes import Scene, Thing
from rsvp_ros.training.losses import soft_iou
from rsvp_ros.training.namings import NAMES
from rsvp_ros.training.networks import TextSamLearner
from rsvp_ros.training.optimizer import set_learning_rate
from rsvp_ros.training.prompts import PromptKind, Sample
from rsvp_ros.training.trainer import Trainer, train
from rsvp_ros.types import Prompt

SIDE = tiny_sams.SIDE
SMALL = TextPathSize(heads=4, text_layers=1, text_dim=32, text_buckets=512)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, Path]:
    return {family: tiny_sams.save(family, tmp_path_factory.mktemp(family)) for family in ("sam", "sam2")}


def config(out: Path, backbone: Path, **changes) -> TrainConfig:
    values = {
        "backbone": str(backbone),
        "text_path": SMALL,
        "model": VlsmConfig(),
        "prompts": 2,
        "precision": "float32",
    }
    return small_config(out, **(values | changes))


# --- places


@pytest.fixture(scope="module")
def scene() -> tuple[Scene, np.ndarray]:
    """A red ball and what it covers, in an image of 192 x 128."""
    ids = np.zeros((128, 192), np.uint8)
    cv2.ellipse(ids, (130, 80), (38, 26), 20, 0, 360, 1, -1)
    image = np.where(ids[..., None] > 0, np.uint8((200, 30, 30)), np.uint8((90, 100, 110)))
    ball = Thing(1, "ball", "red", mask_to_box(ids == 1), int((ids == 1).sum()))
    return Scene(image, ids, (ball,)), ids == 1


def in_its_input(mask: np.ndarray, learner: TextSamLearner, size: tuple[int, int], stride: int) -> torch.Tensor:
    """What a perfect SAM would say of a mask: shares of the cells of its input, 1 x h x w."""
    seen = learner.model.transform.resized(size)
    whole = np.zeros((SIDE, SIDE), np.float32)
    whole[: seen[0], : seen[1]] = cv2.resize(mask.astype(np.float32), seen[::-1], interpolation=cv2.INTER_AREA)
    return torch.from_numpy(cv2.resize(whole, (SIDE // stride,) * 2, interpolation=cv2.INTER_AREA))[None]


@pytest.mark.parametrize("size", [(64, 96), (128, 192)])
@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_what_is_right_in_its_input_is_right_in_the_region(family, size, backbones, scene, monkeypatch):
    """Images of any size: scaled and padded for SAM, stretched for SAM 2."""
    drawn, mask = scene
    learner = TextSamLearner(TextSam.from_backbone(str(backbones[family]), "cpu", heads=4))
    (ball,) = drawn.things
    samples = [Sample(PromptKind.BOX_TEXT, box, "the red ball", (1,)) for box in (ball.box, Box(0, 0, 192, 128))]
    batch = collate(np.random.default_rng(0), [(drawn, samples)], size, learner.grid)
    asked = []

    def perfect(_features, _text, boxes, _index):
        asked.append(boxes)
        logits = (in_its_input(mask, learner, size, learner.model.mask_stride) * 18 - 9).repeat(2, 1, 1)
        similarity = in_its_input(mask, learner, size, learner.model.similarity_stride).repeat(2, 1, 1)
        return VlsmOutput(logits, torch.zeros(2), torch.zeros(2), similarity)

    monkeypatch.setattr(learner.model, "decode", perfect)
    with torch.no_grad():
        output, grounding, naming = learner.answer(batch)
    assert (soft_iou(output.masks.sigmoid(), batch.masks) > 0.93).all()
    assert (output.similarity - batch.cells).abs().mean() < 0.03
    assert (output.similarity - batch.cells.flip(-1)).abs().mean() > 0.1
    assert grounding.shape == (1, len(batch.vocabulary) + 1, size[0] // 8, size[1] // 8)
    assert naming.shape == (1, NAMES)
    seen = learner.model.transform.resized(size)
    expected = [seen[1] / 192, seen[0] / 128] * 2 * np.array(ball.box.as_tuple())
    assert asked[0][0].tolist() == pytest.approx(list(expected), abs=1e-3)
    assert asked[0][1].tolist() == [0, 0, seen[1], seen[0]]


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_it_sees_what_the_segmenter_sees(family, backbones, scene, monkeypatch):
    """The image as the segmenter would have made it of the camera's."""
    drawn, _ = scene
    learner = TextSamLearner(TextSam.from_backbone(str(backbones[family]), "cpu", heads=4))
    (ball,) = drawn.things
    batch = collate(
        np.random.default_rng(0), [(drawn, [Sample(PromptKind.BOX, ball.box, "", (1,))])], (64, 96), learner.grid
    )
    seen = []
    monkeypatch.setattr(
        learner.model, "encode_pixels", lambda pixels: seen.append(pixels) or (_ for _ in ()).throw(Seen)
    )
    with pytest.raises(Seen):
        learner.answer(batch)
    expected = learner.model.transform.apply_image(batch.images[0].permute(1, 2, 0).numpy(), torch.device("cpu"))
    assert seen[0].shape == expected.shape == (1, 3, SIDE, SIDE)
    assert (seen[0] - expected).abs().max() < 0.02  # the segmenter's are rounded to whole values


class Seen(Exception):
    pass


# --- training


def test_adamw_has_the_text_path_and_its_gates_in_a_hurry(backbones, tmp_path):
    trainer = Trainer(config(tmp_path, backbones["sam"]))
    assert type(trainer.optimizer) is torch.optim.AdamW
    text_path = trainer.model.text_path
    gates = {id(module.value) for module in text_path.modules() if isinstance(module, Gate)}
    set_learning_rate(trainer.optimizer, 1e-3)
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert gates and rates == {id(p): pytest.approx(2e-2 if id(p) in gates else 1e-3) for p in text_path.parameters()}


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_only_the_text_path_is_trained_and_stored(family, backbones, tmp_path):
    trainer = Trainer(config(tmp_path, backbones[family]))
    sam = weights(trainer.model.sam)
    assert not trainer.model.reads_text
    folder = train(trainer.config)
    trainer = Trainer(trainer.config)
    assert trainer.resume() and trainer.step == 6
    assert trainer.model.reads_text and same(sam, weights(trainer.model.sam))
    state = torch.load(trainer.checkpoints.newest, weights_only=True)
    assert state["model"].keys() == trainer.model.text_path.state_dict().keys()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    segmenter = TextSamSegmenter.from_pretrained(folder, "cpu")
    assert segmenter.reads_text
    image = np.full((60, 90, 3), 128, np.uint8)
    (prediction,) = segmenter.segment(segmenter.encode(image), [Prompt(Box(10, 10, 50, 50), "the red ball")])
    assert prediction.mask.shape == (60, 90)


def test_resumed_equals_uninterrupted(backbones, tmp_path):
    whole = Trainer(config(tmp_path, backbones["sam"]))
    whole.run()
    whole.checkpoints.newest.unlink()
    resumed = Trainer(config(tmp_path, backbones["sam"]))
    assert resumed.resume() and resumed.step == 3
    resumed.run()
    assert same(weights(whole.model.text_path), weights(resumed.model.text_path))
    other = Trainer(config(tmp_path, backbones["sam"], weight_decay=0.5))
    assert other.resume()
    assert {group["weight_decay"] for group in other.optimizer.param_groups} == {0.5, 0.0}, "not the checkpoint's"


def test_a_training_goes_on_where_its_backbone_was_moved(backbones, tmp_path):
    Trainer(config(tmp_path, backbones["sam"])).run()
    moved = Path(shutil.copytree(backbones["sam"], tmp_path / "moved"))
    assert Trainer(config(tmp_path, moved)).resume()
    with pytest.raises(ConfigurationError, match="another `model`, `backbone` or `text_path`"):
        Trainer(config(tmp_path, backbones["sam2"])).resume()


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_one_batch_can_be_learnt_by_heart(family, backbones, tmp_path):
    """As far as a SAM of random weights lets it: what the text path says by itself."""
    options = {"prompts": 4, "steps": 60, "decay_share": 0.1, "learning_rate": 3e-3}
    trainer = Trainer(config(tmp_path, backbones[family], **options))
    batch: Batch = next(b for b in map(trainer.dataset.__getitem__, range(100)) if 0 < b.present.sum() < len(b.present))
    losses = [trainer.train_step(batch) for _ in range(60)]
    first, last = losses[0], losses[-1]
    assert first["presence"] > 2, "at first it says of everything that it is there"
    assert last["presence"] < 0.1 * first["presence"] and last["grounding"] < 0.8 * first["grounding"]
    assert last["cross_entropy"] < first["cross_entropy"] and last["total"] < 0.6 * first["total"]


def test_training_goes_on_from_a_text_path_on_a_backbone_that_was_moved(backbones, tmp_path):
    first = Trainer(config(tmp_path / "first", backbones["sam"], seed=3))
    first.model.save_pretrained(tmp_path / "weights")
    moved = Path(shutil.copytree(backbones["sam"], tmp_path / "moved"))
    second = Trainer(config(tmp_path / "second", moved, init=str(tmp_path / "weights")))
    assert second.model.text_path.config.backbone == str(moved)
    for name, value in first.model.text_path.state_dict().items():
        assert torch.allclose(second.model.text_path.state_dict()[name], value, atol=2e-3), name
    with pytest.raises(ModelLoadError, match="was trained on another model"):
        Trainer(config(tmp_path / "third", backbones["sam2"], init=str(tmp_path / "weights")))
    with pytest.raises(ConfigurationError, match=r"option `text_path` is another size.*text_dim 64 for 32"):
        other = TextPathSize(text_dim=64)
        Trainer(config(tmp_path / "third", moved, init=str(tmp_path / "weights"), text_path=other))


def test_sizes_that_cannot_be_are_named(backbones, tmp_path):
    with pytest.raises(ConfigurationError, match="5 heads"):
        Trainer(config(tmp_path, backbones["sam"], text_path=TextPathSize(heads=5)))
    with pytest.raises(ModelLoadError, match="nowhere"):
        Trainer(config(tmp_path, tmp_path / "nowhere"))
