"""A text path on pretrained SAMs: closed it changes nothing, trained the text decides, stored alone it comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import tiny_sams
import torch
from torch.nn import functional as F

from rsvp_ros.errors import ConfigurationError, ModelLoadError
from rsvp_ros.geometry import Box
from rsvp_ros.segmentation.loading import SegmenterConfig, load_segmenter, warm_up
from rsvp_ros.segmentation.modeling.text_path import Gate
from rsvp_ros.segmentation.segmenter import Segmenter
from rsvp_ros.segmentation.text_sam import TextSam, TextSamFeatures
from rsvp_ros.segmentation.text_sam_segmenter import TextSamSegmenter
from rsvp_ros.types import Prompt

FAMILIES = ("sam", "sam2", "sam2_video", "edgetam")
SMALL = {"heads": 4, "text_layers": 1, "text_dim": 32, "text_buckets": 512}
TEXTS = ("", "the red cup", "红色的杯子", "?!", "something to cut the rope with, orange handle, left of the mug " * 9)
BOXES = (Box(30, 20, 70, 60), Box(0, 0, 150, 100), Box(100.5, 10.25, 140.75, 90))
SIDE = tiny_sams.SIDE


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """A saved SAM of each family, made when it is asked for."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tiny_sams.save(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (10, 15, 3), dtype=np.uint8), (150, 100), interpolation=cv2.INTER_CUBIC)


def untrained(backbone: Path) -> TextSam:
    torch.manual_seed(1)
    return TextSam.from_backbone(str(backbone), "cpu", **SMALL)


def opened(backbone: Path) -> TextSam:
    """As if trained: no gate is closed."""
    model = untrained(backbone)
    with torch.no_grad():
        for gate in (m for m in model.modules() if isinstance(m, Gate)):
            gate.value.fill_(0.5)
    return model.eval()


def load(folder: Path, **options: str) -> Segmenter:
    return load_segmenter(SegmenterConfig("text_sam", str(folder), device="cpu", **options))


# --- untrained: that SAM, bit for bit or nearly


@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_it_is_that_sam(family, backbones, image, tmp_path):
    untrained(backbones(family)).save_pretrained(tmp_path)
    segmenter = load(tmp_path)
    sam = load_segmenter(SegmenterConfig("transformers", str(backbones(family)), device="cpu"))
    assert isinstance(segmenter, Segmenter) and not segmenter.reads_text and str(tmp_path) in segmenter.name
    prompts = [Prompt(box, text) for box in BOXES for text in TEXTS]
    expected = sam.segment(sam.encode(image), prompts)
    assert any(0.01 < e.mask.mean() < 0.99 for e in expected), "the test's model makes masks that test nothing"
    for prediction, other in zip(segmenter.segment(segmenter.encode(image), prompts), expected, strict=True):
        assert (prediction.mask != other.mask).mean() <= 1e-4  # where a logit is 0 but for rounding
        assert prediction.score == pytest.approx(other.score, abs=1e-5)
        assert prediction.presence == 1.0


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_logits_are_that_sams(family, mode, backbones):
    model = untrained(backbones(family)).train(mode)
    assert not any(module.training for module in model.sam.modules())
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[20.0, 30.0, 90.0, 100.0]]).repeat(len(TEXTS), 1)
    with torch.no_grad():
        expected = model.sam(pixel_values=pixels, input_boxes=boxes[None, :1], multimask_output=False)
        output = model.decode(model.encode_pixels(pixels), model.encode_text(TEXTS), boxes)
    scale = expected.pred_masks.abs().max()
    assert scale > 0.1
    assert ((output.masks - expected.pred_masks[0, :, 0]).abs() <= 1e-5 * scale).all()
    quality = expected.iou_scores[0, 0, 0].clamp(0, 1)
    assert torch.allclose(output.quality.sigmoid(), quality.expand(len(TEXTS)), atol=1e-5)
    assert (output.presence.sigmoid() == 1).all()
    assert output.masks.shape[-1] * model.mask_stride == SIDE == output.similarity.shape[-1] * 8
    assert (output.similarity[0] == 0).all() and (output.similarity[1] != 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_text_an_open_path_changes_nothing_either(family, backbones, image):
    segmenter = TextSamSegmenter(opened(backbones(family)), "tiny", "cpu")
    sam = load_segmenter(SegmenterConfig("transformers", str(backbones(family)), device="cpu"))
    assert segmenter.reads_text
    features = segmenter.encode(image)
    prompts = [Prompt(BOXES[0]), Prompt(BOXES[0], "cup"), Prompt(BOXES[0], "knife")]
    alone, cup, knife = segmenter.segment(features, prompts)
    (expected,) = sam.segment(sam.encode(image), [Prompt(BOXES[0])])
    assert (alone.mask != expected.mask).mean() <= 1e-4
    assert alone.score == pytest.approx(expected.score, abs=1e-5) and alone.presence == 1.0
    assert len({alone.score, cup.score, knife.score}) == 3
    # The order and the company of the prompts make no difference.
    for prompt, before in zip(prompts[::-1], (knife, cup, alone), strict=True):
        (again,) = segmenter.segment(features, [prompt])
        assert (again.mask != before.mask).mean() <= 1e-4 and again.score == pytest.approx(before.score, abs=1e-5)


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_prompts_are_about_their_own_image(family, backbones):
    model = opened(backbones(family))
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[20.0, 30.0, 90.0, 100.0], [0.0, 0.0, 60.0, 50.0]])
    index = torch.tensor([2, 0])
    with torch.no_grad():
        together = model(images, ["a cup", "a knife"], boxes, index)
        for row, text in enumerate(("a cup", "a knife")):
            alone = model(images[index[row]][None], [text], boxes[row : row + 1])
            for name, value in vars(alone).items():
                assert torch.allclose(getattr(together, name)[row : row + 1], value, atol=1e-4), name


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_images_from_0_to_1_are_what_the_transform_makes(family, backbones):
    model = untrained(backbones(family))
    size = (SIDE, SIDE) if family == "sam2" else (96, SIDE)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels = model.transform.apply_image(image, torch.device("cpu"))
    with torch.no_grad():
        expected = model.encode_pixels(pixels)
        features = model.encode_image(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    assert torch.allclose(features.embedding, expected.embedding, atol=1e-4)
    assert len(features.fine) == len(expected.fine) == (2 if family == "sam2" else 0)


# --- training


@pytest.mark.parametrize("family", FAMILIES)
def test_all_gates_learn_and_the_sam_does_not(family, backbones):
    model = untrained(backbones(family)).train()
    before = {name: value.clone() for name, value in model.sam.state_dict().items()}
    images = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), 1e-2)
    for _ in range(2):  # what lies behind a closed gate has no gradient before the gate has moved
        optimizer.zero_grad()
        output = model(images, ["the red cup"], torch.tensor([[20.0, 30.0, 90.0, 100.0]]))
        (output.masks.square().mean() + output.quality.sum() + output.presence.sum()).backward()
        gates = {name: p.grad for name, p in model.named_parameters() if name.endswith("gate.value")}
        assert len(gates) == 4 and all(gradient != 0 for gradient in gates.values()), gates
        optimizer.step()
    still = [name for name, p in model.text_path.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    assert model.reads_text
    assert all(torch.equal(value, before[name]) for name, value in model.sam.state_dict().items())
    assert all(p.grad is None for p in model.sam.parameters())


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_it_trains_under_autocast(family, backbones):
    model = opened(backbones(family)).train()
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    boxes, index = torch.tensor([[20.0, 30.0, 90.0, 100.0]] * 3), torch.tensor([0, 1, 1])
    texts = ["the red cup", "", "a knife"]
    with torch.no_grad():
        expected = model(images, texts, boxes, index)
    with torch.autocast("cpu", torch.bfloat16):
        features, text = model.encode_image(images), model.encode_text(texts)
        output = model.decode(features, text, boxes, index)
        grounding = model.text_path.comparison.grounding(features.semantic, text)
    assert {value.dtype for value in (grounding, *vars(output).values())} == {torch.float32}
    assert grounding.shape == (2, 4, SIDE // 8, SIDE // 8)
    for name, value in vars(expected).items():
        assert (getattr(output, name) - value).abs().mean() <= 0.1 * value.abs().mean() + 0.02, name
    (output.masks.mean() + output.presence.mean() + grounding.logsumexp(1).mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.text_path.parameters())


COLORS = {"red": (1.0, 0.1, 0.1), "green": (0.1, 0.8, 0.1), "blue": (0.1, 0.2, 1.0), "yellow": (0.9, 0.9, 0.1)}
SQUARE = 40


class Squares:
    """Two squares of different colours in every image, one box around both; three prompts an image: one names each
    square, one a colour that is not there."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        images, masks, boxes, self.texts = [], [], [], []
        for _ in range(count):
            colors = rng.permutation(list(COLORS))[:3]
            image = torch.full((3, SIDE, SIDE), 0.5)
            spots = rng.integers((4, 4, 68, 4), (20, 80, 84, 80)).reshape(2, 2)
            for color, (x, y) in zip(colors[:2], spots, strict=True):
                mask = torch.zeros(SIDE, SIDE)
                mask[y : y + SQUARE, x : x + SQUARE] = 1
                image[:, mask > 0] = torch.tensor(COLORS[color])[:, None]
                masks.append(mask)
            masks.append(torch.zeros(SIDE, SIDE))
            images.append(image)
            boxes += [[*spots.min(0), *(spots.max(0) + SQUARE)]] * 3
            self.texts += [f"the {color} square" for color in colors]
        self.images, self.masks = torch.stack(images), torch.stack(masks)
        self.boxes = torch.tensor(np.array(boxes), dtype=torch.float32)
        self.image_index = torch.arange(count).repeat_interleave(3)
        self.present = torch.tensor([1.0, 1.0, 0.0]).repeat(count)


def cells(masks: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(masks[:, None], (side, side), mode="area")[:, 0]


def teach_to_segment(sam: torch.nn.Module, embedding: torch.Tensor, data: Squares, steps: int) -> None:
    """What a SAM knows before it is given a text: tight boxes, and masks as prompts."""
    generator = torch.Generator().manual_seed(0)
    sam.requires_grad_(True)
    optimizer = torch.optim.Adam([*sam.prompt_encoder.parameters(), *sam.mask_decoder.parameters()], 2e-3)
    present = data.present.nonzero()[:, 0]
    position = sam.get_image_wide_positional_embeddings().detach().expand(16, -1, -1, -1)
    for _ in range(steps):
        chosen = present[torch.randint(len(present), (16,), generator=generator)]
        truth = data.masks[chosen]
        low = torch.stack([mask.nonzero()[0].flip(0) for mask in truth])
        tight = torch.cat((low, low + SQUARE), 1) + torch.randn(16, 4, generator=generator) * 2
        loose = torch.rand(16, generator=generator) < 0.5
        boxes = torch.where(loose[:, None], data.boxes[chosen], tight)[:, None]
        corners, dense = sam.prompt_encoder(None, None, boxes.contiguous(), None)
        rough = cells(truth, 32)[:, None] * 8 - 4 + torch.randn(16, 1, 32, 32, generator=generator)
        dense = torch.where(loose[:, None, None, None], sam.prompt_encoder.mask_embed(rough), dense)
        masks, *_ = sam.mask_decoder(embedding[data.image_index[chosen]], position, corners, dense, False)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(masks[:, 0, 0], cells(truth, 32)).backward()
        optimizer.step()
    sam.requires_grad_(False)


def on_images(model: TextSam, features: TextSamFeatures, index: torch.Tensor) -> TextSamFeatures:
    """Some of the images; what the text path makes of them is made anew."""
    return model.prepare(features.embedding[index], [level[index] for level in features.fine])


def test_trained_the_text_decides(backbones, tmp_path):
    torch.manual_seed(0)
    backbone = Path(shutil.copytree(backbones("sam"), tmp_path / "backbone"))
    data, unseen = Squares(64, seed=1), Squares(32, seed=2)
    model = untrained(backbone)
    with torch.no_grad():
        features, unseen_features = model.encode_image(data.images), model.encode_image(unseen.images)
    teach_to_segment(model.sam, features.embedding, data, 150)
    model.sam.save_pretrained(backbone)

    def answer(texts: list[str]):
        with torch.no_grad():
            output = model.decode(
                on_images(model, unseen_features, torch.arange(32)), model.encode_text(texts), unseen.boxes,
                unseen.image_index,
            )  # fmt: skip
        return output, F.interpolate(output.masks[:, None], (SIDE, SIDE), mode="bilinear")[:, 0] > 0

    named = unseen.present > 0
    truth = unseen.masks[named] > 0

    def right_square(masks: torch.Tensor) -> float:
        """Share of the prompts whose mask has at least twice as much of the named square as of the other."""
        other = truth.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        mine, wrong = ((masks[named] & square).flatten(1).sum(1) for square in (truth, other))
        return float((mine > 2 * wrong).float().mean())

    before, masks_before = answer(unseen.texts)
    assert right_square(masks_before) < 0.6 and (before.presence.sigmoid() == 1).all()

    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.text_path.parameters(), 5e-3)
    for _ in range(260):
        chosen = torch.randint(len(data.texts), (24,), generator=generator)
        text = model.encode_text([data.texts[i] for i in chosen])
        output = model.decode(
            on_images(model, features, data.image_index[chosen]), text, data.boxes[chosen], torch.arange(24)
        )
        present, masks = data.present[chosen], data.masks[chosen]
        pixelwise = F.binary_cross_entropy_with_logits(output.masks, cells(masks, 32), reduction="none")
        loss = (
            2 * (pixelwise.mean((1, 2)) * present).mean()
            + 0.1 * F.binary_cross_entropy_with_logits(output.presence, present)
            + F.binary_cross_entropy_with_logits(output.similarity, cells(masks, 16))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    output, masks = answer(unseen.texts)
    intersection, union = ((f(masks[named], truth)).flatten(1).sum(1) for f in (torch.logical_and, torch.logical_or))
    presence = output.presence.sigmoid()
    assert right_square(masks) >= 0.9
    assert float((intersection / union).mean()) > 0.5
    assert presence[named].mean() - presence[~named].mean() > 0.3
    # Without a text it is still the SAM.
    assert (answer([""] * len(unseen.texts))[0].masks - before.masks).abs().max() <= 1e-5 * before.masks.abs().max()

    # What is stored is the text path alone, and it comes back.
    folder = tmp_path / "text_path"
    model.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert not any(name.startswith("sam.") for name in safetensors.torch.load_file(folder / "model.safetensors"))
    segmenter = load(folder)
    assert segmenter.reads_text
    image = (unseen.images[0].permute(1, 2, 0) * 255).round().byte().numpy()
    prompts = [Prompt(Box(*unseen.boxes[row].tolist()), unseen.texts[row]) for row in range(3)]
    for row, prediction in enumerate(segmenter.segment(segmenter.encode(image), prompts)):
        assert (prediction.mask != masks[row].numpy()).mean() < 0.02
        assert prediction.presence == pytest.approx(float(presence[row]), abs=0.05)


# --- as a segmenter


def test_boxes_at_the_border_and_outside(backbones, image):
    segmenter = TextSamSegmenter(opened(backbones("sam2")), "tiny", "cpu")
    features = segmenter.encode(image)
    outside, inside, line = segmenter.segment(
        features, [Prompt(Box(-50, -50, -10, 40), "cup"), Prompt(BOXES[0], "cup"), Prompt(Box(9, 9, 9, 40), "cup")]
    )
    for empty in (outside, line):
        assert not empty.mask.any() and (empty.score, empty.presence) == (0.0, 0.0)
    (alone,) = segmenter.segment(features, [Prompt(BOXES[0], "cup")])
    assert (alone.mask != inside.mask).mean() <= 1e-4
    assert segmenter.segment(features, []) == [] == segmenter.segment(features, [])


def test_descriptions_are_encoded_once(backbones, image):
    segmenter = TextSamSegmenter(opened(backbones("sam2")), "tiny", "cpu")
    calls = []
    segmenter.model.text_path.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    warm_up(segmenter, 150, 100)
    for text in ("cup", "cup", "knife", "knife"):
        segmenter.segment(segmenter.encode(image), [Prompt(BOXES[0], text), Prompt(BOXES[1], text)])
    assert len(calls) == 3


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_half_precision_is_the_encoders_alone(family, backbones, image, tmp_path):
    opened(backbones(family)).save_pretrained(tmp_path)
    half, full = load(tmp_path, dtype="bfloat16"), load(tmp_path)
    assert {p.dtype for p in half.model.sam.vision_encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.model.text_path.parameters()} == {torch.float32}
    prompts = [Prompt(box, "cup") for box in BOXES]
    for a, b in zip(*(s.segment(s.encode(image), prompts) for s in (half, full)), strict=True):
        assert a.mask.shape == b.mask.shape == (100, 150)
        assert a.score == pytest.approx(b.score, abs=0.1)
    with pytest.raises(ConfigurationError, match="int8"):
        load(tmp_path, dtype="int8")


# --- failures


def _edit(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _not_a_number(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["mask_gate.value"] = torch.tensor(float("nan"))
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def _cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"config\.json.*backend transformers"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json.*give a folder"),
        (lambda folder: _edit(folder, layers=3), "layers"),
        (lambda folder: _edit(folder, heads=5), "32 is no multiple of twice the 5 heads"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors.*missing or damaged"),
        (_cut, r"model\.safetensors.*missing or damaged"),
        (_not_a_number, r"model\.safetensors.*mask_gate\.value.*train it again"),
        (lambda folder: _edit(folder, text_dim=48), r"(?s)model\.safetensors do not fit.*same training"),
        (lambda folder: _edit(folder, backbone="/nowhere/sam"), r'config\.json names.*/nowhere/sam.*write its folder'),
        (lambda folder: _edit(folder, backbone=7), r"config\.json: backbone must be of type str"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_named(damage, message, backbones, tmp_path):
    folder = tmp_path / "text_path"
    untrained(backbones("sam")).save_pretrained(folder)
    damage(folder)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


def test_a_backbone_of_another_family_or_size_is_refused(backbones, tmp_path):
    folder = tmp_path / "text_path"
    untrained(backbones("sam2")).save_pretrained(folder)
    _edit(folder, backbone=str(backbones("edgetam")))
    with pytest.raises(ModelLoadError, match="says architecture Sam2Model, the model's is EdgeTamModel"):
        load(folder)

    parts = tiny_sams._sam2_parts()
    parts["vision_config"]["backbone_config"]["blocks_per_stage"] = [1, 1, 3, 1]
    larger = tmp_path / "larger"
    tiny_sams.Sam2Model(tiny_sams.Sam2Config(**parts)).save_pretrained(larger)
    tiny_sams.image_processor("sam2").save_pretrained(larger)
    _edit(folder, backbone=str(larger))
    with pytest.raises(
        ModelLoadError, match=r"says parameters \d+, the model's is \d+: .*train a text path for this one"
    ):
        load(folder)

    with pytest.raises(ModelLoadError, match=r"type 'sam_hq', which takes no text path: supported are sam, sam2"):
        untrained(backbones("sam_hq"))
    with pytest.raises(ModelLoadError, match=r"has no config\.json"):
        untrained(tmp_path)


@pytest.mark.parametrize(
    ("sizes", "message"), [({"heads": 5}, "5 heads"), ({"depth": 2}, "depth"), ({"heads": "4"}, "int")]
)
def test_sizes_that_cannot_be_are_named(sizes, message, backbones):
    with pytest.raises(ConfigurationError, match=message):
        TextSam.from_backbone(str(backbones("sam")), "cpu", **sizes)
