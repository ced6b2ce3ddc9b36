"""The VLSM: its parts, its segmenter, and what the weights in the package can do."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

from rsvp_ros.errors import ConfigurationError, InvalidImageError, ModelLoadError, ModelRunError
from rsvp_ros.evaluation.segmentation import (
    area_under_curve,
    held_out_scenes,
    measure_images,
    measure_scenes,
    read_masked_images,
    report,
)
from rsvp_ros.geometry import Box, mask_iou, mask_to_box
from rsvp_ros.segmentation.modeling.prompt_encoder import coverage
from rsvp_ros.segmentation.modeling.text_encoder import word_pieces, words
from rsvp_ros.segmentation.segmenter import Segmenter
from rsvp_ros.segmentation.vlsm import Vlsm, VlsmConfig
from rsvp_ros.segmentation.vlsm_segmenter import (
    CACHED_TEXTS,
    CROP_SIDE,
    EMBEDDED,
    IMAGE_SIDE,
    MASK_STRIDE,
    View,
    VlsmSegmenter,
    crop_area,
    full_size_mask,
    make_view,
)
from rsvp_ros.training.prompts import PromptKind
from rsvp_ros.types import Prompt

SMALL = VlsmConfig(
    dim=32, heads=2, image_layers=1, stem=(8, 16, 24), two_way_layers=1, mask_dim=16, text_dim=24, text_buckets=256,
    piece_dim=16, max_words=8,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def small() -> Vlsm:
    torch.manual_seed(0)
    return Vlsm(SMALL).eval()


@pytest.fixture(scope="module")
def embedded() -> VlsmSegmenter:
    return VlsmSegmenter.from_pretrained("embedded", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def measures(embedded):
    """By kind of prompt, on 50 held-out drawn scenes."""
    return measure_scenes(embedded, held_out_scenes(99, 50))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def disc(
    height: int, width: int, center: tuple[float, float], radius: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A plain red disc on a grey ground, and its mask."""
    y, x = np.mgrid[:height, :width]
    mask = np.hypot(x + 0.5 - center[0], y + 0.5 - center[1]) < radius
    image = np.where(mask[..., None], (200, 40, 40), (120, 125, 120)) + np.random.default_rng(seed).normal(
        0, 3, (height, width, 1)
    )
    return np.clip(image, 0, 255).astype(np.uint8), mask


# --- parts ------------------------------------------------------------------------------------------------------------


def test_words_of_any_script():
    assert words("The RED cup, with a handle!", 16) == ["the", "red", "cup", "with", "a", "handle"]
    assert words("红色的杯子", 16) == ["红", "色", "的", "杯", "子"]
    assert words("Größe ΑΒΓ чашка कप", 16)[:3] == ["grösse", "αβγ", "чашка"]
    assert words("\uff43\uff55\uff50", 16) == ["cup"]  # full-width letters
    assert words(" .,!? \x00\ud800 🙂", 16) == []
    assert words("a " * 100_000, 16) == ["a"] * 16


def test_word_pieces_are_shared_by_similar_words():
    pieces = {word: set(word_pieces(word, 1 << 20)) for word in ("cup", "cups", "knife")}
    assert pieces["cup"] & pieces["cups"] and not pieces["cup"] & pieces["knife"]
    assert len(word_pieces("cup", 4096)) == 4 and len(word_pieces("杯", 4096)) == 1
    assert all(0 <= piece < 64 for piece in word_pieces("x" * 1000, 64))


def test_coverage_counts_shares_of_cells():
    cells = coverage(torch.tensor([[8.0, 4.0, 32.0, 16.0]]), 3, 4, 16)[0]
    assert torch.allclose(cells, torch.tensor([[0.375, 0.75, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    whole = coverage(torch.tensor([[-50.0, -50.0, 500.0, 500.0]]), 3, 4, 16)
    assert (whole == 1).all()


def test_a_text_is_encoded_alike_alone_and_among_longer_ones(small):
    alone = small.encode_text(["red cup"])
    among = small.encode_text(["a long description of a thing", "red cup", ""])
    assert torch.allclose(alone.tokens[0], among.tokens[1, :2], atol=1e-5)
    assert torch.allclose(alone.query[0], among.query[1], atol=1e-5)
    assert among.given.tolist() == [True, True, False] and among.valid.sum(1).tolist() == [6, 2, 0]


def test_the_region_and_the_text_both_matter(small):
    torch.manual_seed(1)
    features = small.encode_image(torch.rand(1, 3, 64, 96))
    boxes = torch.tensor([[0.0, 0, 40, 40], [50.0, 20, 90, 60], [0.0, 0, 40, 40]])
    masks = small.decode(features, small.encode_text(["cup", "cup", "knife"]), boxes).masks
    assert masks.shape == (3, 32, 48)
    assert (masks[0] - masks[1]).abs().max() > 1e-3
    assert (masks[0] - masks[2]).abs().max() > 1e-4


def test_the_region_pulls_attention_inside(small):
    inside = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    bias = small.blocks[0].region(inside, torch.zeros_like(inside))
    assert bias.shape == (1, 2, 1, 4)
    assert (bias[..., :2] == 0).all() and (bias[..., 2:] < -0.5).all()
    text = small.blocks[0].region(inside, torch.tensor([[3.0, 0.0, 0.0, 0.0]]))
    assert (text[..., 0] > text[..., 1]).all()


def test_similarity_is_grounding_against_the_background(small):
    features = small.encode_image(torch.rand(1, 3, 64, 64))
    text = small.encode_text(["red cup", ""])
    logits = small.grounding(features.semantic, text.query[:1])
    similarity = small.similarity(features.semantic.expand(2, -1, -1, -1), text)
    assert torch.allclose(similarity[0], logits[0, 0] - logits[0, 1], atol=1e-5)
    assert (similarity[1] == 0).all()


def test_a_batch_of_images_equals_each_alone(small):
    torch.manual_seed(2)
    images = torch.rand(2, 3, 64, 64)
    boxes = torch.tensor([[4.0, 4, 40, 40], [10.0, 20, 60, 60]])
    together = small(images, ["cup", ""], boxes, torch.tensor([0, 1]))
    for i, text in enumerate(("cup", "")):
        alone = small(images[i : i + 1], [text], boxes[i : i + 1])
        assert torch.allclose(together.masks[i], alone.masks[0], atol=1e-4)
        assert torch.allclose(together.presence[i], alone.presence[0], atol=1e-4)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_saved_weights_come_back(small, tmp_path):
    small.save_pretrained(tmp_path)
    again = Vlsm.from_pretrained(tmp_path)
    assert again.config == SMALL and not again.training
    for name, value in small.state_dict().items():
        assert torch.allclose(value, again.state_dict()[name], atol=2e-3), name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def _truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _other_size(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"dim": 64}))


def _lacks_a_tensor(folder):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors.pop("background")
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize(
    ("damage", "named"),
    [(shutil.rmtree, r"config\.json"), (_remove("config.json"), r"config\.json"),
     (_write("config.json", b"\xff{"), r"config\.json"), (_write("config.json", b"[]"), r"config\.json"),
     (_write("config.json", b'{"depth": 3}'), "depth"), (_remove("model.safetensors"), r"model\.safetensors"),
     (_truncate, r"model\.safetensors"), (_write("model.safetensors", b""), r"model\.safetensors"),
     (_other_size, "do not fit"), (_lacks_a_tensor, "background")],
)  # fmt: skip
def test_a_folder_that_cannot_be_loaded_is_named(small, tmp_path, damage, named):
    folder = tmp_path / "weights"
    small.save_pretrained(folder)
    damage(folder)
    with pytest.raises(ModelLoadError, match=named):
        VlsmSegmenter.from_pretrained(folder, device="cpu")


def test_wrong_device_and_dtype_are_named(small):
    with pytest.raises(ConfigurationError, match="toaster"):
        VlsmSegmenter(small, "small", device="toaster")
    with pytest.raises(ConfigurationError, match="int3"):
        VlsmSegmenter(small, "small", device="cpu", dtype="int3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ConfigurationError, match="device 'cuda' cannot be used"):
        VlsmSegmenter.from_pretrained("embedded", device="cuda")


def test_a_folder_of_the_home_directory(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    small.save_pretrained(tmp_path / "weights")
    assert VlsmSegmenter.from_pretrained("~/weights", device="cpu").model.config == SMALL


# --- segmenter --------------------------------------------------------------------------------------------------------


def test_it_is_a_segmenter(embedded):
    assert isinstance(embedded, Segmenter)
    assert embedded.reads_text and "embedded" in embedded.name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("height", "width"), [(2, 2), (2, 3000), (3000, 2), (4, 5), (37, 53), (240, 320), (1365, 2048), (3000, 4000)]
)
def test_images_of_any_size(dtype, height, width):
    segmenter = VlsmSegmenter.from_pretrained("embedded", device="cpu", dtype=dtype)
    prompts = [
        Prompt(Box(0, 0, width, height)),
        Prompt(Box(width * 0.4, height * 0.4, width * 0.5, height * 0.5), "red cup"),
        Prompt(Box(-10, -10, -5, -5), "cup"),
        Prompt(Box(width / 2, height / 2, width / 2, height / 2)),
        Prompt(Box(-1e6, -1e6, 1e6, 1e6), "杯子"),
    ]
    predictions = segmenter.segment(segmenter.encode(noise(height, width)), prompts)
    assert len(predictions) == len(prompts)
    for prompt, prediction in zip(prompts, predictions, strict=True):
        assert prediction.mask.shape == (height, width) and prediction.mask.dtype == bool
        assert 0 <= prediction.score <= 1 and 0 <= prediction.presence <= 1
        assert prediction.presence == 1 or prompt.description
        assert prediction.mask.any() or prediction.score == 0


def test_what_is_no_image_is_refused(embedded):
    for bad in (
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ):
        with pytest.raises(InvalidImageError, match="uint8"):
            embedded.encode(bad)


def test_views_of_memory_are_images_too(embedded):
    wide = noise(60, 160)
    prompt = [Prompt(Box(10, 10, 60, 50))]
    expected = embedded.segment(embedded.encode(np.ascontiguousarray(wide[::-1, ::2])), prompt)[0]
    found = embedded.segment(embedded.encode(wide[::-1, ::2]), prompt)[0]
    assert np.array_equal(found.mask, expected.mask)


def test_no_prompts_no_predictions(embedded):
    assert embedded.segment(embedded.encode(noise(48, 64)), []) == []


def test_many_prompts_equal_each_alone(embedded):
    """Small and large boxes mixed, with and without words, in their order."""
    image = next(iter(held_out_scenes(5, 1)))[0].image
    features = embedded.encode(image)
    rng = np.random.default_rng(0)
    prompts = []
    for i in range(20):
        x, y = rng.uniform(0, 200, 2)
        side = rng.uniform(20, 50) if i % 2 else rng.uniform(70, 110)
        prompts.append(Prompt(Box(x, y, x + side, y + side * 0.8), ("", "red cup", "the knife on the left")[i % 3]))
    together = embedded.segment(features, prompts)
    assert any(p.mask.any() for p in together)
    for prompt, prediction in zip(prompts, together, strict=True):
        alone = embedded.segment(features, [prompt])[0]
        assert mask_iou(alone.mask, prediction.mask) > 0.99
        assert alone.score == pytest.approx(prediction.score, abs=1e-3)
        assert alone.presence == pytest.approx(prediction.presence, abs=1e-3)


def test_images_of_changing_size_do_not_mix(embedded):
    boxes = {(120, 160): Box(30, 20, 110, 90), (200, 100): Box(10, 60, 90, 150)}
    first = {}
    for size, box in boxes.items():
        first[size] = embedded.segment(embedded.encode(noise(*size)), [Prompt(box)])[0]
    features = {size: embedded.encode(noise(*size)) for size in boxes}
    for size, box in reversed(boxes.items()):
        again = embedded.segment(features[size], [Prompt(box)])[0]
        assert np.array_equal(again.mask, first[size].mask) and again.score == first[size].score


def test_descriptions_are_encoded_once(small, monkeypatch):
    segmenter = VlsmSegmenter(small, "small", device="cpu", dtype="float32")
    calls = []
    encode_text = small.encode_text
    monkeypatch.setattr(small, "encode_text", lambda texts: calls.append(texts) or encode_text(texts))
    features = segmenter.encode(noise(64, 64))
    prompts = [Prompt(Box(0, 0, 64, 64), text) for text in ("a violet teapot", "a violet teapot", "another one")]
    for _ in range(3):
        segmenter.segment(features, prompts)
    assert calls == [["a violet teapot"], ["another one"]]
    for i in range(CACHED_TEXTS + 5):
        segmenter.segment(features, [Prompt(Box(0, 0, 64, 64), f"number {i}")])
    assert len(segmenter._texts) == CACHED_TEXTS


def test_running_out_of_memory_has_its_error(embedded):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    features = embedded.encode(noise(32, 32))
    decode, embedded.model.decode = embedded.model.decode, fail
    try:
        with pytest.raises(ModelRunError, match="memory"):
            embedded.segment(features, [Prompt(Box(0, 0, 32, 32))])
    finally:
        embedded.model.decode = decode
    assert embedded.segment(features, [Prompt(Box(0, 0, 32, 32))])


# --- views: where pixels go -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(240, 320), (480, 854), (1365, 2048), (90, 33), (30, 700)])
def test_a_view_and_its_mask_are_inverse(height, width):
    """A box drawn into the logits where the view puts it comes back where it was, to a part of a cell or of a pixel."""
    view = make_view(noise(height, width), (0, 0, width, height), 320)
    sides = view.pixels.shape[:2]
    assert max(sides) == 320 and min(sides) >= 32 and sides[0] % 16 == sides[1] % 16 == 0
    box = Box(width * 0.3, height * 0.25, width * 0.75, height * 0.8)
    x0, y0, x1, y1 = box.scale(*view.scale).as_tuple()
    fine = np.full((view.pixels.shape[0], view.pixels.shape[1]), -1.0, np.float32)
    fine[round(y0) : round(y1), round(x0) : round(x1)] = 1
    cells = (fine.shape[1] // MASK_STRIDE, fine.shape[0] // MASK_STRIDE)
    logits = cv2.resize(fine, cells, interpolation=cv2.INTER_AREA)
    found = mask_to_box(full_size_mask(logits, view, box, height, width))
    assert np.abs(np.subtract(found.scale(*view.scale).as_tuple(), (x0, y0, x1, y1))).max() < 1.6 + max(view.scale) / 2


def interpolated(logits: np.ndarray, view: View, height: int, width: int) -> np.ndarray:
    """Logits at every pixel of the image, in float64; nothing is known beyond the outermost cells' centres."""

    def weights(pixels: int, cells: int, origin: int, scale: float) -> np.ndarray:
        at = np.clip((np.arange(pixels) - origin + 0.5) * scale / MASK_STRIDE - 0.5, 0, cells - 1)
        return np.maximum(1 - np.abs(at[:, None] - np.arange(cells)), 0)

    (rows, columns), (sx, sy) = logits.shape, view.scale
    return weights(height, rows, view.top, sy) @ logits @ weights(width, columns, view.left, sx).T


def masks_and_truth(height: int, width: int, seed: int, close: bool):
    """A mask of blobs, and what float64 makes of the same logits, in the part of the image where the mask may be."""
    rng = np.random.default_rng(seed)
    x, y, w, h = rng.uniform(-0.1, 0.9, 4) * (width, height, width, height)
    box = Box(x, y, x + max(w, 2), y + max(h, 2)).clip(width, height)
    area = crop_area(box, width, height) if close else (0, 0, width, height)
    view = make_view(np.zeros((height, width, 3), np.uint8), area, CROP_SIDE if close else IMAGE_SIDE, square=close)
    grid = view.pixels.shape[0] // MASK_STRIDE, view.pixels.shape[1] // MASK_STRIDE
    logits = cv2.GaussianBlur(rng.normal(size=grid).astype(np.float32), (0, 0), 2)
    ones = full_size_mask(np.ones(grid, np.float32), view, box, height, width)
    return (
        full_size_mask(logits, view, box, height, width),
        (interpolated(logits, view, height, width) > 0) & ones,
        ones,
    )


@pytest.mark.parametrize(("height", "width"), [(480, 640), (720, 1280), (1080, 1920)])
def test_masks_of_common_sizes_are_interpolated_exactly(height, width):
    for seed in range(3):
        mask, truth, _ = masks_and_truth(height, width, seed, close=False)
        assert (mask != truth).sum() <= 2 < truth.sum()


@pytest.mark.parametrize("close", [False, True])
def test_masks_of_any_size_are_interpolated_to_a_pixel(close):
    rng = np.random.default_rng(0)
    kernel = np.ones((3, 3), np.uint8)
    for seed in range(60):
        height, width = (int(v) for v in np.exp(rng.uniform(np.log(8), np.log(2100), 2)))
        mask, truth, reach = masks_and_truth(height, width, seed, close)
        boundary = cv2.dilate(truth.astype(np.uint8), kernel) != cv2.erode(truth.astype(np.uint8), kernel)
        assert ((mask != truth) & ~boundary).sum() <= 2
        assert (mask != truth).sum() <= 2 + 0.1 * boundary.sum()
        assert reach.any()


def test_a_mask_stays_near_its_box():
    view = make_view(noise(300, 400), (0, 0, 400, 300), 320)
    everywhere = np.ones((view.pixels.shape[0] // MASK_STRIDE, view.pixels.shape[1] // MASK_STRIDE), np.float32)
    found = mask_to_box(full_size_mask(everywhere, view, Box(100, 100, 180, 160), 300, 400))
    assert found == Box(80, 85, 200, 175)


def test_crops_lie_around_their_box_and_inside_the_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        width, height = (int(v) for v in rng.integers(2, 600, 2))
        x, y = rng.uniform(-50, width), rng.uniform(-50, height)
        box = Box(x, y, x + rng.uniform(0, 90), y + rng.uniform(0, 90)).clip(width, height)
        x0, y0, x1, y1 = crop_area(box, width, height)
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert x0 <= box.x0 and box.x1 <= x1 and y0 <= box.y0 and box.y1 <= y1
        assert make_view(noise(height, width), (x0, y0, x1, y1), CROP_SIDE, square=True).pixels.shape == (192, 192, 3)
    assert crop_area(Box(100, 100, 140, 120), 640, 480) == (80, 70, 160, 150)


# --- what the shipped weights can do: well below what the model card says, well above chance --------------------------


def test_the_shipped_weights_are_small():
    assert (EMBEDDED / "model.safetensors").stat().st_size < 8e6
    assert (EMBEDDED / "README.md").read_text().startswith("# ")


def test_a_disc_in_its_box(embedded):
    image, mask = disc(240, 320, (150, 110), 60)
    prediction = embedded.segment(embedded.encode(image), [Prompt(Box(85, 45, 215, 175))])[0]
    assert mask_iou(prediction.mask, mask) > 0.85
    assert prediction.score > 0.6


def test_a_small_thing_in_a_large_image_is_looked_at_closely(embedded):
    """40 pixels wide in a 2000-pixel image: 6 pixels on the network's grid, a cell and a half of the mask."""
    image, mask = disc(1400, 2000, (1203, 688), 20)
    prediction = embedded.segment(embedded.encode(image), [Prompt(Box(1180, 664, 1226, 712))])[0]
    assert mask_iou(prediction.mask, mask) > 0.75


def test_a_mask_follows_a_box_that_lags_behind(embedded):
    """A tracker's box, 15 % of its size behind: the mask's box is nearer to the truth than the prompt."""
    image, mask = disc(240, 320, (150, 110), 50)
    late = mask_to_box(mask).translate(-15, 8)
    found = mask_to_box(embedded.segment(embedded.encode(image), [Prompt(late)])[0].mask)
    assert found.iou(mask_to_box(mask)) > late.iou(mask_to_box(mask)) + 0.1


def test_bfloat16_gives_the_same_masks(embedded):
    half = VlsmSegmenter.from_pretrained("embedded", device="cpu", dtype="bfloat16")
    ious, kinds = [], []
    for scene, samples in held_out_scenes(3, 8):
        prompts = [Prompt(s.box, s.text) for _, s in samples if s.targets]
        pairs = zip(
            embedded.segment(embedded.encode(scene.image), prompts),
            half.segment(half.encode(scene.image), prompts),
            strict=True,
        )
        for a, b in pairs:
            ious.append(mask_iou(a.mask, b.mask))
            kinds.append(abs(a.presence - b.presence))
    assert np.mean(ious) > 0.93 and np.mean(kinds) < 0.05


def test_a_box_alone_is_enough(measures):
    box, leaves = measures[PromptKind.BOX.value], measures[PromptKind.LEAF.value]
    assert len(box.ious) > 15 and np.mean(box.ious) > 0.6 and np.mean(box.right) > 0.85
    assert len(leaves.ious) > 100 and np.mean(leaves.ious) > 0.55


def test_words_nobody_knows_leave_it_to_the_box(measures):
    unknown = measures[PromptKind.UNKNOWN_TEXT.value]
    assert np.mean(unknown.ious) > 0.55 and np.mean(unknown.presences) > 0.6


def test_the_text_decides_between_two_things_in_a_box(embedded, measures):
    """The same box around two things, each named in turn: two masks, each on its own thing."""
    right, swapped = [], []
    for scene, samples in held_out_scenes(41, 50):
        features = embedded.encode(scene.image)
        for sample in (s for _, s in samples if s.kind is PromptKind.PAIR_TEXT):
            target = next(t for t in scene.things if (t.id,) == sample.targets)
            other = min(
                (t for t in scene.things if t is not target),
                key=lambda t, c=target.box.center: np.hypot(*np.subtract(t.box.center, c)),
            )
            if (target.kind, target.color) == (other.kind, other.color):
                continue
            for named, rival in ((target, other), (other, target)):
                text = f"{named.color} {named.kind}"
                mask = embedded.segment(features, [Prompt(sample.box, text)])[0].mask
                on_named, on_rival = mask_iou(mask, scene.mask(named)), mask_iou(mask, scene.mask(rival))
                right.append(on_named > on_rival)
                swapped.append(on_rival > 0.5)
    assert len(right) > 30
    assert np.mean(right) > 0.75 and np.mean(swapped) < 0.2


def test_the_text_finds_a_thing_in_the_whole_image(measures):
    whole = measures[PromptKind.WHOLE_TEXT.value]
    assert len(whole.ious) > 30 and np.mean(whole.right) > 0.6  # by chance: 1 in 6


def test_presence_tells_what_is_not_there(measures):
    absent = measures[PromptKind.ABSENT.value].presences
    present = [p for kind in (PromptKind.BOX_TEXT, PromptKind.WHOLE_TEXT) for p in measures[kind.value].presences]
    assert area_under_curve(present, absent) > 0.75
    assert np.mean(present) > np.mean(absent) + 0.25


def test_people_in_a_photograph_from_jittered_boxes(embedded, shared_data):
    """Real photographs, never seen in training: better than the box itself, which has about 0.5."""
    images = read_masked_images(shared_data / "video" / "judo")
    ious, baseline = measure_images(embedded, images, repeats=4)
    assert len(ious) >= 16 and np.mean(ious) > np.mean(baseline) + 0.03


# --- measures ---------------------------------------------------------------------------------------------------------


def test_area_under_curve():
    assert area_under_curve([3, 4], [1, 2]) == 1.0
    assert area_under_curve([1, 2], [3, 4]) == 0.0
    assert area_under_curve([1, 2], [1, 2]) == 0.5


def test_measures_of_a_perfect_and_of_a_blind_segmenter():
    """What the measures say follows from the masks alone."""

    class Fixed:
        def __init__(self, scene, samples, perfect):
            self.scene, self.answers = scene, iter(samples)
            self.perfect = perfect

        def encode(self, image):
            return image

        def segment(self, _, prompts):
            from rsvp_ros.types import Prediction

            results = []
            for _ in prompts:
                _, sample = next(self.answers)
                mask = np.isin(self.scene.ids, sample.targets)
                results.append(Prediction(mask if self.perfect else ~mask, 1.0, float(bool(sample.targets))))
            return results

    scene, samples = next(iter(held_out_scenes(1, 1)))
    for perfect in (True, False):
        measures = measure_scenes(Fixed(scene, samples, perfect), [(scene, samples)])
        ious = [iou for m in measures.values() for iou in m.ious]
        right = [r for m in measures.values() for r in m.right]
        assert ious and (np.mean(ious) == 1.0) == perfect and all(right) == perfect
        assert "| prompt | N |" in report(measures)
