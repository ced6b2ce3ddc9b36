"""The adapters for segment-anything and transformers' SAM families, against those packages' own pipelines."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import cv2
import huggingface_hub.constants
import numpy as np
import pytest
import segment_anything
import tiny_sams
import torch
import transformers

from rsvp_ros.errors import ConfigurationError, InvalidImageError, ModelLoadError, ModelRunError
from rsvp_ros.geometry import Box, mask_iou
from rsvp_ros.segmentation.loading import SegmenterConfig, load_segmenter, warm_up
from rsvp_ros.segmentation.sam3 import Sam3Segmenter, _agreement
from rsvp_ros.segmentation.sam_transform import ImageTransform
from rsvp_ros.segmentation.segment_anything_adapter import SegmentAnythingSegmenter, build_sam
from rsvp_ros.segmentation.segmenter import Segmenter
from rsvp_ros.segmentation.torch_runtime import (
    CpuShare,
    choose_device,
    choose_dtype,
    is_out_of_memory,
    move_to_device,
    running,
)
from rsvp_ros.segmentation.transformers_loading import resolve
from rsvp_ros.segmentation.transformers_sam import image_transform
from rsvp_ros.types import Prompt

BOXES = (Box(100, 120, 300, 400), Box(310.5, 40.25, 420.75, 200.0), Box(0, 0, 640, 480), Box(500, 300, 505, 460))
PROCESSORS = {
    "sam": "SamProcessor",
    "sam_hq": "SamHQProcessor",
    "sam2": "Sam2Processor",
    "edgetam": "Sam2Processor",
    "sam3_tracker": "Sam3TrackerProcessor",
}
ALL = ("segment_anything", *tiny_sams.BOX_FAMILIES, *tiny_sams.SAM3_FAMILIES)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photo(shared_data: Path) -> np.ndarray:
    """A tabletop, 640 x 480."""
    return cv2.cvtColor(cv2.imread(str(shared_data / "rgbd" / "000000-color.png")), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A saved model of each family, made when it is asked for."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            path = tmp_path_factory.mktemp(family)
            if family == "segment_anything":
                path = path / "sam_vit_tiny.pth"
                torch.save(tiny_sams.randomize(tiny_sams.build_segment_anything()).state_dict(), path)
            else:
                tiny_sams.save(family, path)
            made[family] = path
        return made[family]

    return folder


@pytest.fixture(scope="session")
def segmenters(folders):
    """A loaded segmenter of each family, through the door that the node uses."""
    made: dict[str, Segmenter] = {}

    def segmenter(family: str) -> Segmenter:
        if family not in made:
            backend = "segment_anything" if family == "segment_anything" else "transformers"
            made[family] = load_segmenter(SegmenterConfig(backend, str(folders(family)), device="cpu"))
            if isinstance(made[family], Sam3Segmenter):
                made[family].threshold = 0.0  # random weights are not sure of anything
        return made[family]

    return segmenter


def prompts_of(boxes) -> list[Prompt]:
    return [Prompt(box, f"thing {index % 2}") for index, box in enumerate(boxes)]


def calls_of(module: torch.nn.Module) -> list[int]:
    """A list that grows by one with each forward call."""
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def encoder_of(segmenter) -> torch.nn.Module:
    return segmenter.sam.image_encoder if hasattr(segmenter, "sam") else segmenter.model.vision_encoder


# --- the same as the packages' own pipelines


@pytest.mark.parametrize("family", PROCESSORS)
def test_equals_transformers_own_pipeline(family, folders, segmenters, photo):
    folder = folders(family)
    image_processor = tiny_sams.image_processor(family)
    processor = getattr(transformers, PROCESSORS[family])(image_processor)
    model = type(segmenters(family).model).from_pretrained(folder).eval()
    inputs = processor(images=photo, input_boxes=[[list(box.as_tuple()) for box in BOXES]], return_tensors="pt")
    sizes = [inputs.pop("original_sizes").tolist()]
    if "reshaped_input_sizes" in inputs:
        sizes.append(inputs.pop("reshaped_input_sizes").tolist())
    inputs["input_boxes"] = inputs["input_boxes"].float()
    with torch.no_grad():
        output = model(**inputs, multimask_output=False)
    expected = processor.post_process_masks(output.pred_masks, *sizes)[0][:, 0].numpy()

    segmenter = segmenters(family)
    predictions = segmenter.segment(segmenter.encode(photo), prompts_of(BOXES))
    for prediction, mask, score in zip(predictions, expected, output.iou_scores[0, :, 0], strict=True):
        assert 0.01 < mask.mean() < 0.99, "the test's model makes masks that test nothing"
        assert mask_iou(prediction.mask, mask) > 0.999
        assert prediction.score == pytest.approx(float(score.clamp(0, 1)), abs=1e-4)
        assert prediction.presence == 1.0


def test_equals_sam_predictor(folders, segmenters, photo):
    sam = tiny_sams.build_segment_anything()
    sam.load_state_dict(torch.load(folders("segment_anything"), weights_only=True))
    predictor = segment_anything.SamPredictor(sam)
    predictor.set_image(photo)
    segmenter = segmenters("segment_anything")
    predictions = segmenter.segment(segmenter.encode(photo), prompts_of(BOXES))
    for box, prediction in zip(BOXES, predictions, strict=True):
        masks, scores, _ = predictor.predict(box=np.array(box.as_tuple()), multimask_output=False)
        assert 0.01 < masks[0].mean() < 0.99, "the test's model makes masks that test nothing"
        assert mask_iou(prediction.mask, masks[0]) > 0.99  # PIL rounds single pixels of the resized image differently
        assert prediction.score == pytest.approx(float(np.clip(scores[0], 0, 1)), abs=1e-2)


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (640, 360), (2, 2), (3, 97)])
@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_image_transform_equals_the_processor(family, size, photo):
    image = cv2.resize(photo, size[::-1])
    processor = tiny_sams.image_processor(family)
    expected = processor(images=image, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
    assert torch.allclose(image_transform(processor).apply_image(image, torch.device("cpu")), expected, atol=1e-5)


def test_image_transform_equals_segment_anythings(photo):
    sam = tiny_sams.build_segment_anything()
    resized = segment_anything.utils.transforms.ResizeLongestSide(tiny_sams.SIDE).apply_image(photo)
    expected = sam.preprocess(torch.from_numpy(resized).permute(2, 0, 1)[None])
    transform = ImageTransform((tiny_sams.SIDE, tiny_sams.SIDE), keep_aspect=True)
    one_level = 1.01 / 57  # PIL rounds differently here and there
    assert (transform.apply_image(photo, torch.device("cpu")) - expected).abs().max() <= one_level


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_dimensions_are_read_from_the_weights_of_published_sams(name):
    with torch.device("meta"):  # shapes without memory
        official = segment_anything.sam_model_registry[name]()
        sam = build_sam(official.state_dict(), name)
    assert str(sam) == str(official)
    for ours, theirs in zip(sam.modules(), official.modules(), strict=True):
        plain = {k: v for k, v in vars(theirs).items() if isinstance(v, (int, float, tuple, list)) and k != "training"}
        assert {k: vars(ours)[k] for k in plain} == plain


def test_video_checkpoint_gives_its_image_model(folders, segmenters):
    for family in ("sam2_video", "edgetam_video"):
        saved = transformers.AutoModel.from_pretrained(folders(family)).state_dict()
        loaded = segmenters(family).model.state_dict()
        assert loaded.keys() <= saved.keys()
        assert all(torch.equal(value, saved[key]) for key, value in loaded.items())


# --- what every segmenter must do


@pytest.mark.parametrize("family", ALL)
def test_contract(family, segmenters, photo):
    segmenter = segmenters(family)
    assert isinstance(segmenter, Segmenter)
    assert segmenter.reads_text == (family in tiny_sams.SAM3_FAMILIES)
    features = segmenter.encode(photo)
    assert segmenter.segment(features, []) == []
    prompts = prompts_of(BOXES)
    together = segmenter.segment(features, prompts)
    assert len(together) == len(prompts)
    for prompt, prediction in zip(prompts, together, strict=True):
        assert prediction.mask.shape == (480, 640)
        assert prediction.mask.dtype == bool
        assert 0 <= prediction.score <= 1
        assert 0 <= prediction.presence <= 1
        (alone,) = segmenter.segment(features, [prompt])
        assert mask_iou(alone.mask, prediction.mask) > 0.999
        assert alone.score == pytest.approx(prediction.score, abs=1e-4)
    assert not np.array_equal(together[0].mask, together[1].mask)


@pytest.mark.parametrize("family", ALL)
def test_image_is_encoded_once(family, segmenters, photo):
    segmenter = segmenters(family)
    calls = calls_of(encoder_of(segmenter))
    features = segmenter.encode(photo)
    for count in (1, 3, 4):
        segmenter.segment(features, prompts_of(BOXES[:count]))
    assert len(calls) == 1


@pytest.mark.parametrize("family", ALL)
def test_images_of_any_size(family, segmenters, photo):
    segmenter = segmenters(family)
    for width, height in ((2, 2), (3840, 2160), (640, 480), (3, 900), (320, 240)):
        image = cv2.resize(photo, (width, height))
        features = segmenter.encode(image)
        box = Box(0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height)
        (prediction,) = segmenter.segment(features, [Prompt(box, "cup")])
        assert prediction.mask.shape == (height, width)
    # Neither the size before nor features kept across frames make a difference.
    first = segmenter.encode(photo)
    before = segmenter.segment(first, [Prompt(BOXES[0], "cup")])[0]
    segmenter.encode(cv2.resize(photo, (320, 240)))
    assert np.array_equal(segmenter.segment(first, [Prompt(BOXES[0], "cup")])[0].mask, before.mask)


@pytest.mark.parametrize("family", ALL)
def test_boxes_are_clipped_and_empty_ones_give_nothing(family, segmenters, photo):
    segmenter = segmenters(family)
    features = segmenter.encode(photo)
    boxes = [
        Box(-1000, -50, -10, 480),  # outside
        Box(-300, 100, 200, 2000),  # over the border
        Box(100, 100, 100, 300),  # no width
        Box(640, 480, 700, 500),  # touches the corner
        Box(10, 10, 10.2, 10.2),  # less than a pixel
    ]
    outside, over, line, corner, dot = segmenter.segment(features, [Prompt(box, "cup") for box in boxes])
    for empty in (outside, line, corner):
        assert not empty.mask.any()
        assert (empty.score, empty.presence) == (0.0, 0.0)
    (clipped,) = segmenter.segment(features, [Prompt(Box(0, 100, 200, 480), "cup")])
    assert mask_iou(over.mask, clipped.mask) > 0.999
    assert over.mask.any()
    assert dot.mask.shape == (480, 640)


@pytest.mark.parametrize("family", ALL)
def test_bfloat16_encoder_changes_little(family, folders, segmenters, photo):
    backend = "segment_anything" if family == "segment_anything" else "transformers"
    half = load_segmenter(SegmenterConfig(backend, str(folders(family)), device="cpu", dtype="bfloat16"))
    if isinstance(half, Sam3Segmenter):
        half.threshold = 0.0
    encoder = encoder_of(half)
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    tables = dict(encoder.named_buffers()).keys() - encoder.state_dict().keys()
    assert all(encoder.get_buffer(name).dtype != torch.bfloat16 for name in tables)
    full = segmenters(family)
    # The decoder stays in float32: what it gets from the encoder is, and so is a box.
    exact, rounded = (list(_tensors(s.encode(photo).embeddings)) for s in (full, half))
    assert len(exact) == len(rounded) > 0
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() < 0.1 * a.norm()
    assert len(half.segment(half.encode(photo), prompts_of(BOXES))) == len(BOXES)


@pytest.mark.parametrize("family", tiny_sams.SAM3_FAMILIES)
def test_sam3_position_encodings_stay_float32(family, folders, segmenters, photo):
    half = load(folders(family), dtype="bfloat16")
    exact = segmenters(family).encode(photo).embeddings.fpn_position_encoding
    encodings = half.encode(photo).embeddings.fpn_position_encoding
    assert len(exact) == len(encodings) > 1
    assert all(torch.equal(a, b) for a, b in zip(exact, encodings, strict=True))


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


@pytest.mark.parametrize("family", ["segment_anything", "sam2", "sam3"])
def test_warm_up_runs_every_part(family, segmenters):
    segmenter = segmenters(family)
    root = segmenter.sam if hasattr(segmenter, "sam") else segmenter.model
    encoder, decoder = calls_of(encoder_of(segmenter)), calls_of(root.mask_decoder)
    warm_up(segmenter, 64, 48)
    assert (len(encoder), len(decoder)) == (1, 1)


def test_default_is_the_embedded_vlsm(photo):
    segmenter = load_segmenter(SegmenterConfig(device="cpu"))
    assert segmenter.reads_text
    warm_up(segmenter, 64, 48)
    (prediction,) = segmenter.segment(segmenter.encode(photo), [Prompt(BOXES[0], "mug")])
    assert prediction.mask.shape == (480, 640)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))])
def test_other_arrays_are_refused(image, segmenters):
    with pytest.raises(InvalidImageError, match="uint8 H x W x 3"):
        segmenters("sam2").encode(image)


def test_read_only_and_strided_images(segmenters, photo):
    segmenter = segmenters("sam2")
    expected = segmenter.encode(np.ascontiguousarray(photo[:, ::-1]))
    view = photo[:, ::-1]
    view.flags.writeable = False
    for a, b in zip(_tensors(expected.embeddings), _tensors(segmenter.encode(view).embeddings), strict=True):
        assert torch.equal(a, b)


# --- SAM 3: text and box


@pytest.mark.parametrize("family", ["sam3", "sam3_lite_text"])
def test_sam3_equals_transformers_own_pipeline(family, folders, segmenters, photo):
    folder = folders(family)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.Sam3Processor(tiny_sams.image_processor(family), tokenizer)
    model = type(segmenters(family).model).from_pretrained(folder).eval()
    segmenter = segmenters(family)
    features = segmenter.encode(photo)
    for text in ("red cup", ""):
        box = BOXES[0]
        example = {} if text else {"input_boxes": [[list(box.as_tuple())]]}
        inputs = processor(images=photo, text=text or None, return_tensors="pt", **example)
        sizes = inputs.pop("original_sizes").tolist()
        with torch.no_grad():
            output = model(**inputs)
        instances = processor.post_process_instance_segmentation(output, threshold=0.0, target_sizes=sizes)[0]
        (prediction,) = segmenter.segment(features, [Prompt(box, text)])
        rank = instances["scores"] * _agreement(instances["boxes"], box)
        best = int(rank.argmax())
        assert prediction.presence == pytest.approx(float(instances["scores"][best]), abs=1e-4)
        assert mask_iou(prediction.mask, instances["masks"][best].bool().numpy()) > 0.999


def test_sam3_published_checkpoint_is_a_video_model(folders, segmenters, photo):
    """Its detector is read for text, and its tracker where `model_type` asks for boxes."""
    saved = transformers.AutoModel.from_pretrained(folders("sam3_video")).state_dict()
    detector = segmenters("sam3_video").model.state_dict()
    assert all(torch.equal(value, saved[f"detector_model.{key}"]) for key, value in detector.items())
    tracker = load_segmenter(
        SegmenterConfig("transformers", str(folders("sam3_video")), device="cpu", model_type="sam3_tracker")
    )
    assert not tracker.reads_text
    decoder = tracker.model.mask_decoder.state_dict()
    assert all(torch.equal(value, saved[f"tracker_model.mask_decoder.{key}"]) for key, value in decoder.items())
    assert tracker.segment(tracker.encode(photo), prompts_of(BOXES))[0].mask.shape == (480, 640)


def test_sam3_shares_work_between_targets_and_frames(folders, photo):
    segmenter = load_segmenter(SegmenterConfig("transformers", str(folders("sam3")), device="cpu"))
    texts, passes = calls_of(segmenter.model.text_encoder), calls_of(segmenter.model.detr_encoder)
    for _ in range(2):
        segmenter.segment(segmenter.encode(photo), [Prompt(box, "cup") for box in BOXES])
    assert (len(texts), len(passes)) == (1, 2)


def test_sam3_reads_its_text(segmenters, photo):
    segmenter = segmenters("sam3")
    features = segmenter.encode(photo)
    prompts = [Prompt(BOXES[2], text) for text in ("red cup", "a blue screwdriver", "")]
    presences = [prediction.presence for prediction in segmenter.segment(features, prompts)]
    assert len({round(presence, 5) for presence in presences}) == 3
    (long,) = segmenter.segment(features, [Prompt(BOXES[2], "a cup with a very long description " * 20)])
    assert long.mask.shape == (480, 640)


def test_sam3_chooses_the_instance_of_the_region(segmenters, photo):
    """Regions that are the instances' own boxes: different ones are chosen, and they fit better than any would."""
    segmenter = segmenters("sam3")
    features = segmenter.encode(photo)
    with torch.inference_mode():
        output = segmenter._detect(features, ["cup"])
    scale = torch.tensor([640, 480, 640, 480])
    boxes = [Box.ordered(*corners).clip(640, 480) for corners in (output.pred_boxes[0] * scale).tolist()]
    masks = segmenter.transform.restore_masks(output.pred_masks[0].sigmoid(), (480, 640), threshold=0.5)
    chosen = []
    for box in boxes:
        (prediction,) = segmenter.segment(features, [Prompt(box, "cup")])
        chosen.append(next(i for i, mask in enumerate(masks) if np.array_equal(mask, prediction.mask)))
    assert len(set(chosen)) > 1
    fits = [box.iou(boxes[index]) for box, index in zip(boxes, chosen, strict=True)]
    assert np.mean(fits) > np.mean([a.iou(b) for a in boxes for b in boxes])


def test_agreement_prefers_the_fitting_box_and_the_one_inside():
    boxes = torch.tensor([[10.0, 10, 50, 50], [30, 10, 70, 50], [200, 200, 220, 220], [0, 0, 640, 480]])
    assert int(_agreement(boxes, Box(12, 8, 52, 50)).argmax()) == 0
    loose = _agreement(boxes, Box(150, 150, 400, 400))
    assert int(loose.argmax()) == 2
    assert loose[0] == 0
    assert torch.all((loose >= 0) & (loose <= 1))


def test_sam3_says_absent(segmenters, photo):
    segmenter = segmenters("sam3")
    features = segmenter.encode(photo)
    segmenter.threshold = 0.9999
    try:
        (prediction,) = segmenter.segment(features, [Prompt(BOXES[0], "cup")])
    finally:
        segmenter.threshold = 0.0
    assert not prediction.mask.any()
    assert prediction.score == 0.0
    assert prediction.presence < 0.9999


# --- failures


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "model"))


def load(model: object, backend: str = "transformers", **options: str) -> Segmenter:
    return load_segmenter(SegmenterConfig(backend, str(model), device="cpu", **options))


def test_unknown_settings(folders):
    with pytest.raises(ConfigurationError, match="vlsm, segment_anything, transformers"):
        load_segmenter(SegmenterConfig("sam"))
    with pytest.raises(ConfigurationError, match="dtype 'int8'"):
        load(folders("sam2"), dtype="int8")
    with pytest.raises(ConfigurationError, match="device 'gpu'"):
        load_segmenter(SegmenterConfig("transformers", str(folders("sam2")), device="gpu"))
    with pytest.raises(ConfigurationError, match="sam3_tracker"):
        load(folders("sam2"), model_type="sam4")
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize(
    ("cores", "alone", "other", "beside"),
    [(2, 2, 1, 1), (8, 8, 4, 4), (8, 3, 4, 3), (2, 1, 1, 1), (4, 4, 4, 1), (2, 2, 0, 2)],
)
def test_cores_are_shared_and_taken_back(monkeypatch, cores, alone, other, beside):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    counts = []

    def compute():
        torch.set_num_threads(alone)  # of this thread
        share = CpuShare(other)
        for shared in (True, False, True, False):
            share.set(shared)
            counts.append(torch.get_num_threads())

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert counts == [beside, alone, beside, alone]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_device_that_is_not_there(folders):
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ConfigurationError, match="device 'cuda' cannot be used"):
        load_segmenter(SegmenterConfig("transformers", str(folders("sam2")), device="cuda"))


def test_missing_folder_and_hub_name(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match=r"there is no folder .*nowhere.*hf download"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelLoadError, match="there is no folder embedded"):
        load("embedded")
    with pytest.raises(ModelLoadError, match="hf download rsvp-ros/never-downloaded"):
        load("rsvp-ros/never-downloaded")


@pytest.mark.parametrize("family", ["sam2", "sam3"])
def test_a_model_in_the_hub_s_cache_is_loaded_without_asking_the_hub(folders, tmp_path, monkeypatch, family):
    """A robot's start must not wait for a network that may be there or not."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--me--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = kept / "snapshots" / commit
    shutil.copytree(folders(family), snapshot)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)

    def ask(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", ask)
    assert "me/tiny" in load("me/tiny").name
    assert resolve("me/tiny", "vocab.missing") == "me/tiny", "what is not whole is asked for"
    weights = snapshot / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match=r"broken.*hf download --force-download me/tiny"):
        load("me/tiny")


@pytest.mark.parametrize("family", [*tiny_sams.BOX_FAMILIES, "sam3"])
def test_an_encoder_in_half_precision_can_be_compiled(folders, family):
    """As it is on a GPU; what fails, fails where the network is traced, so that no compiler is needed."""
    backend = SegmenterConfig("transformers", str(folders(family)), device="cpu", dtype="bfloat16")
    segmenter = load_segmenter(backend)
    segmenter.image_encoder.compile(backend="eager")
    warm_up(segmenter, 64, 48)
    torch.compiler.reset()


def test_folder_that_lacks_a_file(folders, tmp_path):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"):
        folder = copy_of(folders("sam3"), tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(ModelLoadError, match=rf"{folder} has no {name}.*hf download"):
            load(folder)


def test_broken_files(folders, tmp_path):
    folder = copy_of(folders("sam2"), tmp_path)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    for broken in (content[: len(content) // 2], b"version https://git-lfs.github.com/spec/v1\n", b""):
        weights.write_bytes(broken)
        with pytest.raises(ModelLoadError, match=r"model\.safetensors is broken .*hf download"):
            load(folder)
    weights.write_bytes(content)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"(?s)config.*hf download"):
        load(folder)


def test_other_architectures(folders, tmp_path):
    folder = copy_of(folders("sam2"), tmp_path / "type")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "clip"}))
    with pytest.raises(ModelLoadError, match=r"type 'clip'.*supported are edgetam.*sam3_video"):
        load(folder)
    (folder / "config.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(ModelLoadError, match="names no model_type"):
        load(folder)
    folder = copy_of(folders("sam2"), tmp_path / "weights")
    shutil.copy(folders("sam") / "model.safetensors", folder)
    with pytest.raises(ModelLoadError, match=r"lack \d+ tensors of Sam2Model"):
        load(folder)
    folder = copy_of(folders("sam2"), tmp_path / "shapes")
    config["mask_decoder_config"]["mlp_dim"] = 96
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match=r"(?s)cannot be loaded.*hf download"):
        load(folder)
    folder = copy_of(folders("sam2"), tmp_path / "processor")
    (folder / "preprocessor_config.json").write_text(
        (folder / "preprocessor_config.json").read_text().replace(str(tiny_sams.SIDE), "256")
    )
    with pytest.raises(ModelLoadError, match=r"makes images of \(256, 256\) pixels, its model takes 128"):
        load(folder)


def test_file_where_a_folder_is_wanted_and_the_reverse(folders):
    with pytest.raises(ModelLoadError, match=r"is a file.*backend segment_anything"):
        load(folders("segment_anything"))
    with pytest.raises(ModelLoadError, match=r"is not a file.*download a SAM checkpoint"):
        load(folders("sam2"), "segment_anything")


def test_segment_anything_checkpoints_that_cannot_be_used(folders, tmp_path):
    good = torch.load(folders("segment_anything"), weights_only=True)
    path = tmp_path / "sam.pth"
    cases = {
        "cannot be read": folders("segment_anything").read_bytes()[:1000],
        "holds a list": [1, 2],
        "holds no weights of a segment_anything model": {"weight": torch.zeros(1)},
        "SAM-HQ's": {**good, "mask_decoder.hf_token.weight": torch.zeros(1, 32)},
        "SAM 2's": {"model": {}},
        "MobileSAM's": {"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(1)},
        "does not fit segment_anything's Sam": {k: v for k, v in good.items() if "iou_token" not in k},
    }
    for message, content in cases.items():
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(ModelLoadError, match=message) as caught:
            load(path, "segment_anything")
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "package", "extra"), [("segment_anything", "segment_anything", "sam"), ("transformers",) * 3]
)
def test_missing_package(backend, package, extra, folders, monkeypatch):
    model = folders("segment_anything" if backend == "segment_anything" else "sam2")
    for name in [name for name in sys.modules if name.startswith("rsvp_ros.segmentation.") or name == package]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelLoadError, match=rf"pip install 'rsvp_ros\[{extra}\]'"):
        load(model, backend)


def test_loading_needs_no_torch():
    code = "import sys, rsvp_ros.segmentation.loading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


def test_out_of_memory_is_an_error_that_can_be_survived(segmenters, photo):
    segmenter = segmenters("sam")
    features = segmenter.encode(photo)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 256 * 2**20, hard))
    try:
        with pytest.raises(ModelRunError, match="ran out of memory: use a smaller model"):
            segmenter.segment(features, [Prompt(BOXES[0])] * 20000)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert segmenter.segment(features, [Prompt(BOXES[0])])[0].mask.shape == (480, 640)


@pytest.mark.parametrize(
    "message",
    ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
     "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory"],
)  # fmt: skip
def test_lack_of_memory_outside_torchs_allocator_is_known_too(message):
    assert is_out_of_memory(RuntimeError(message))
    with pytest.raises(ModelRunError, match="sam ran out of memory"), running("sam"):
        raise RuntimeError(message)
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_memory_of_the_failed_call_is_free_before_the_cache_is_emptied(monkeypatch):
    held, free = [], []

    def fail():
        tensor = torch.zeros(8)
        held.append(weakref.ref(tensor))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.append(held[0]() is None))
    with pytest.raises(ModelRunError, match="ran out of memory"), running("sam"):
        fail()
    assert free == [True]


@pytest.mark.parametrize(
    ("error", "message"),
    [("CUDA error: out of memory", "does not fit into cpu's memory.*nvidia-smi"),
     ("CUDA error: no kernel image is available\nhints", r"sam cannot be moved to cpu \(.*available\): .*device cpu")],
)  # fmt: skip
def test_a_model_that_cannot_be_moved_to_its_device(error, message):
    class Stuck(torch.nn.Module):
        def to(self, *_):
            raise RuntimeError(error)

    with pytest.raises(ModelLoadError, match=message):
        move_to_device(Stuck(), "sam", torch.device("cpu"))


def test_failures_of_the_network_have_a_name(folders, photo):
    segmenter = SegmentAnythingSegmenter.from_checkpoint(str(folders("segment_anything")), device="cpu")
    segmenter.transform = ImageTransform((64, 64), keep_aspect=True)
    with pytest.raises(ModelRunError, match=r"segment_anything sam_vit_tiny\.pth failed"):
        segmenter.encode(photo)
