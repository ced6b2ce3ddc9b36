"""Data that users have: files in the published formats, what is read from them, and what is asked about it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from hand_made_view import INSTRUCTIONS, make_view
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from rsvp_ros.errors import ConfigurationError, InvalidImageError
from rsvp_ros.geometry import Box, mask_iou, mask_to_box
from rsvp_ros.segmentation.vlsm import VlsmOutput
from rsvp_ros.tabletop import coco, reasonseg, rle
from rsvp_ros.textures import TextureBank
from rsvp_ros.training import config_files
from rsvp_ros.training.config import TrainConfig
from rsvp_ros.training.dataset import Batch, MixedDataset, Shares, collate
from rsvp_ros.training.datasets import parts, sampling
from rsvp_ros.training.datasets.annotated import AnnotatedImage, AnnotatedImages
from rsvp_ros.training.datasets.areas import Polygons, RunLengths
from rsvp_ros.training.datasets.coco import CocoInstances
from rsvp_ros.training.datasets.loading import DatasetConfig, divided, open_dataset
from rsvp_ros.training.datasets.parts import mirrored, overlaid, take_part
from rsvp_ros.training.datasets.reasonseg import ReasonSeg
from rsvp_ros.training.datasets.refcoco import RefCoco
from rsvp_ros.training.datasets.sampling import annotated_prompts
from rsvp_ros.training.datasets.wording import says_name, says_place, says_side
from rsvp_ros.training.drawn_scenes import UNKNOWN, Scene, Thing
from rsvp_ros.training.losses import Losses, compute_losses, soft_iou
from rsvp_ros.training.namings import NAMES
from rsvp_ros.training.prompts import PromptKind, Sample

# A picture in which a colour tells what a pixel is -------------------------------------------------------------------

SIZE = (240, 320)
GROUND = (150, 130, 110)
BOXES = {  # x, y, width, height; the cherry lies on the plate
    "left cup": (20, 60, 50, 60),
    "right cup": (250, 60, 50, 60),
    "plate": (110, 130, 100, 70),
    "cherry": (140, 150, 30, 24),
    "crowd": (90, 10, 120, 40),
}
COLORS = {
    "left cup": (30, 60, 180),
    "right cup": (30, 200, 200),
    "plate": (240, 205, 60),
    "cherry": (200, 30, 30),
    "crowd": (90, 30, 110),
}
CATEGORIES = ("cup", "plate", "cherry", "giraffe", "traffic_light")


def picture() -> np.ndarray:
    image = np.full((*SIZE, 3), GROUND, np.uint8)
    for name, (x, y, w, h) in BOXES.items():
        image[y : y + h, x : x + w] = COLORS[name]
    return image


def is_color(image: np.ndarray, name: str) -> np.ndarray:
    low, high = (np.clip(np.add(COLORS[name], step), 0, 255) for step in (-40, 40))
    return cv2.inRange(image, low, high) > 0


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = (cv2.IMWRITE_JPEG_QUALITY, 95)
    assert cv2.imwrite(str(path), image[..., ::-1], quality if path.suffix == ".jpg" else ())


def corners(name: str) -> list[float]:
    x, y, w, h = BOXES[name]
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def instances(file_name: str) -> dict:
    """The file of COCO's format about the picture: polygons, run lengths of both kinds, a crowd."""
    plate, crowd = (np.zeros(SIZE, bool) for _ in range(2))
    for mask, name in ((plate, "plate"), (crowd, "crowd")):
        x, y, w, h = BOXES[name]
        mask[y : y + h, x : x + w] = True
    masks = {
        "left cup": [corners("left cup")],
        "right cup": [corners("right cup")],
        "plate": rle.encode(plate),
        "cherry": [corners("cherry")],
        "crowd": {"size": list(SIZE), "counts": rle.run_lengths(crowd).tolist()},
    }
    category = {"left cup": 1, "right cup": 1, "plate": 2, "cherry": 3, "crowd": 1}
    return {
        "info": {"description": "a picture"},
        "licenses": [],
        "images": [
            {"id": 8, "file_name": "empty.png", "width": SIZE[1], "height": SIZE[0]},
            {"id": 9, "file_name": file_name, "width": SIZE[1], "height": SIZE[0], "license": 1},
        ],
        "annotations": [
            {"id": 100 + n, "image_id": 9, "category_id": category[name], "segmentation": masks[name], "area": 1.0,
             "bbox": list(BOXES[name]), "iscrowd": int(name == "crowd")}
            for n, name in enumerate(BOXES)
        ],
        "categories": [{"id": n, "name": name, "supercategory": "thing"} for n, name in enumerate(CATEGORIES, 1)],
    }  # fmt: skip


def write_coco(folder: Path, content: dict | None = None) -> DatasetConfig:
    write(folder / "val2017" / "picture.png", picture())
    path = folder / "annotations" / "instances_val2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content or instances("picture.png")))
    return DatasetConfig("coco", str(folder), split="val2017")


SENTENCES = {
    "train": {
        100: ("the cup on the left", "blue cup"),
        102: ("big yellow plate",),
        103: ("red cherry on the plate", "the red one"),
    },
    "val": {101: ("turquoise cup",)},
}


def python2_pickle(value: object) -> bytes:
    """As Python 2 wrote RefCOCO's files: protocol 0, text as bytes."""

    def parts_of(value: object) -> bytes:
        if isinstance(value, dict):
            return b"(d" + b"".join(parts_of(k) + parts_of(v) + b"s" for k, v in value.items())
        if isinstance(value, list):
            return b"(l" + b"".join(parts_of(v) + b"a" for v in value)
        if isinstance(value, int):
            return b"I%d\n" % value
        return b"S" + repr(str(value).encode())[1:].encode() + b"\n"

    return parts_of(value) + b"."


def references() -> list[dict]:
    found = []
    for split, of_split in SENTENCES.items():
        for number, texts in of_split.items():
            sentences = [{"tokens": text.split(), "raw": text.upper(), "sent_id": 7, "sent": text} for text in texts]
            found.append(
                {"sent_ids": [7], "file_name": "COCO_train2014_000000000009_100.jpg", "ann_id": number,
                 "ref_id": len(found), "image_id": 9, "split": split, "sentences": sentences, "category_id": 1}
            )  # fmt: skip
    return found


def write_refcoco(folder: Path, pickled: bytes | None = None, split_by: str = "unc") -> DatasetConfig:
    write(folder / "train2014" / "COCO_train2014_000000000009.jpg", picture())
    (folder / "refcoco").mkdir(exist_ok=True)
    content = instances("COCO_train2014_000000000009.jpg")
    (folder / "refcoco" / "instances.json").write_text(json.dumps(content))
    (folder / "refcoco" / f"refs({split_by}).p").write_bytes(pickled or python2_pickle(references()))
    return DatasetConfig("refcoco", str(folder / "refcoco"), images=str(folder / "train2014"))


def shape(label: str, *box: int) -> dict:
    x, y, w, h = box
    return {"label": label, "points": [[x, y], [x + w - 1, y], [x + w - 1, y + h - 1], [x, y + h - 1]]}


def write_reasonseg(
    folder: Path, shapes: list | None = None, text: object = None, encoding: str = "utf-8"
) -> DatasetConfig:
    """The plate is meant, the cherry on it ignored; a flag is nothing. The larger shape comes last."""
    write(folder / "train" / "a.jpg", picture())
    if shapes is None:
        shapes = [
            shape("Ignore this", *BOXES["cherry"]),
            shape("flag", *BOXES["left cup"]),
            shape("target", *BOXES["plate"]),
        ]
    text = ["What would one serve a crêpe on?"] if text is None else text
    content = {"text": text, "is_sentence": True, "shapes": shapes}
    data = json.dumps(content, ensure_ascii=False).encode(encoding)
    (folder / "train" / "a.json").write_bytes(data)
    return DatasetConfig("reasonseg", str(folder))


WRITERS = {"coco": write_coco, "refcoco": write_refcoco, "reasonseg": write_reasonseg}


@pytest.fixture(scope="module", params=sorted(WRITERS))
def images(request, tmp_path_factory):
    return open_dataset(WRITERS[request.param](tmp_path_factory.mktemp(request.param)))


def rectangle(name: str) -> np.ndarray:
    x, y, w, h = BOXES[name]
    mask = np.zeros(SIZE, bool)
    mask[y : y + h, x : x + w] = True
    return mask


# Areas ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_a_polygon_is_the_pixels_whose_middles_it_holds(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-6, 20, (rng.integers(3, 10), 2))
    mask = Polygons((points,)).mask(14, 11)
    x, y = np.meshgrid(np.arange(14) + 0.5, np.arange(11) + 0.5)
    inside = np.zeros((11, 14), bool)
    for (xa, ya), (xb, yb) in zip(points, np.roll(points, -1, 0), strict=True):  # a ray to the left of each middle
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= ((ya > y) != (yb > y)) & (xa + (y - ya) / (yb - ya) * (xb - xa) < x)
    assert np.array_equal(mask, inside)


def test_polygons_are_as_cocos_own_code_draws_them():
    outlines = ([3.2, 2.1, 20.7, 4.9, 25.3, 15.4, 12.8, 9.6, 5.5, 17.2], [18.0, 16.0, 24.5, 16.5, 21.0, 21.5])
    mask = Polygons(tuple(np.reshape(outline, (-1, 2)) for outline in outlines)).mask(30, 24)
    text = "Z22f06K5J00O1O1O1O2N1O100001O0010OCJ87GK75IM63IM:0FN>0BOa00^3"  # of pycocotools, which rounds to 1/5 pixel
    assert mask_iou(mask, rle.decode({"size": [24, 30], "counts": text})) > 0.95
    assert np.count_nonzero(mask) == pytest.approx(185, abs=3)


def test_run_lengths_of_both_kinds():
    truth = np.repeat([0, 1, 0, 1, 0], [7, 2, 3, 2, 16]).reshape(6, 5).T == 1
    for counts in ("7230=", np.array([7, 2, 3, 2, 16], np.int32)):  # the text is pycocotools'
        assert np.array_equal(RunLengths((5, 6), counts).mask(6, 5), truth)
    with pytest.raises(ValueError, match="6 x 5 pixels, not 5 x 6"):
        RunLengths((5, 6), "7230=").mask(5, 6)


# COCO ----------------------------------------------------------------------------------------------------------------


def masks_by_id(image: AnnotatedImage) -> dict[int, np.ndarray]:
    return {thing.id: image.mask(thing) for thing in (*image.things, *image.ignored)}


def test_coco_is_read(tmp_path):
    images = open_dataset(write_coco(tmp_path))
    assert len(images) == 1, "nothing is annotated in the other one"
    image = images[0]
    assert np.array_equal(image.read(), picture())
    assert [thing.name for thing in image.things] == ["cup", "cup", "plate", "cherry"]
    assert [thing.name for thing in image.ignored] == ["cup"]
    assert image.complete == ("cup", "plate", "cherry", "giraffe", "traffic light")
    for n, name in enumerate(BOXES):
        assert np.array_equal(masks_by_id(image)[100 + n], rectangle(name)), name


def test_what_reaches_out_of_the_image_is_cut_off(tmp_path):
    content = instances("picture.png")
    content["annotations"][0]["segmentation"] = [[-30, -20, 15, -20, 15, 10, -30, 10]]
    content["annotations"][0]["bbox"] = [-30, -20, 45, 30]
    image = open_dataset(write_coco(tmp_path, content))[0]
    assert mask_to_box(image.mask(image.things[0])) == Box(0, 0, 15, 10)


def test_our_own_coco_export_is_read(tmp_path):
    view = make_view()
    write(tmp_path / "images" / "scene.jpg", view.image)
    path = tmp_path / "annotations" / "instances_train.json"
    path.parent.mkdir()
    path.write_text(json.dumps(coco.instances([("scene.jpg", view)], "made by hand")))
    (tmp_path / "train").mkdir()  # as it is where the export has written ReasonSeg's format, too
    (image,) = open_dataset(DatasetConfig("coco", str(tmp_path)))
    assert image.read().shape == view.image.shape
    assert [thing.name for thing in image.things] == ["mug", "banana", "can"]
    for number, thing in enumerate(image.things, 1):
        assert np.array_equal(image.mask(thing), view.mask(number))


def test_a_large_file_is_small_in_memory_and_in_another_process(tmp_path):
    rng = np.random.default_rng(0)
    content = instances("picture.png")
    polygon = rng.uniform(0, 200, 60).tolist()
    content["images"] = [{"id": n, "file_name": "picture.png", "width": SIZE[1], "height": SIZE[0]} for n in range(300)]
    content["annotations"] = [
        {"id": n, "image_id": n % 300, "category_id": 1, "segmentation": [polygon], "bbox": [0, 0, 9, 9]}
        for n in range(2000)
    ]
    images = open_dataset(write_coco(tmp_path, content))
    packed = pickle.dumps(images)
    assert len(packed) < 2000 * (60 * 4 + 100)
    copy = pickle.loads(packed)
    assert len(copy) == 300
    assert [thing.id for thing in copy[3].things] == list(range(3, 2000, 300))
    area = copy[3].things[1].area
    assert np.allclose(area.outlines[0].ravel(), polygon, atol=1e-4)


def break_coco(change):
    content = instances("picture.png")
    change(content, content["annotations"][1])
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c, a: a.update(segmentation=[[400, 10, 500, 10, 500, 90]]),
            "annotation 101: it lies outside its image",
        ),
        (lambda c, a: a.update(segmentation=[[10, -90, 50, -90, 50, -9]]), "annotation 101: it lies outside its image"),
        (lambda c, a: a.update(bbox=[330, 0, 20, 20]), "annotation 101: it lies outside its image"),
        (lambda c, a: a.update(bbox=[0, 0, -20, 20]), "annotation 101: its `bbox`"),
        (lambda c, a: a.update(bbox=[0, 0, 20]), "annotation 101: its `bbox`"),
        (
            lambda c, a: a.update(segmentation=[[1, 2, 3, 4]]),
            "annotation 101: its `segmentation` is no list of polygons",
        ),
        (lambda c, a: a.update(segmentation=[1, 2, 3, 4, 5, 6]), "annotation 101: its `segmentation`"),
        (lambda c, a: a.update(segmentation=[[1, 2, "x", 4, 5, 6]]), "annotation 101"),
        (lambda c, a: a.update(segmentation=[[1, 2, float("nan"), 4, 5, 6]]), "annotation 101: .* not finite"),
        (lambda c, a: a.update(segmentation=[]), "annotation 101: its `segmentation` is empty"),
        (
            lambda c, a: a.update(segmentation={"size": [9, 9], "counts": [81]}),
            "annotation 101: its run lengths are of 9",
        ),
        (lambda c, a: a.update(segmentation={"counts": [81]}), "annotation 101: it lacks 'size'"),
        (lambda c, a: a.pop("segmentation"), "annotation 101: it lacks `segmentation`"),
        (lambda c, a: a.pop("category_id"), "annotation 101: it lacks 'category_id'"),
        (lambda c, a: a.update(image_id=77), "annotation 101: its `image_id`"),
        (lambda c, a: a.update(category_id=77), "annotation 101: its `category_id`"),
        (lambda c, a: c.pop("categories"), "not COCO's: KeyError\\('categories'\\)"),
        (lambda c, a: c["images"].append(c["images"][0]), "the same `id`"),
        (lambda c, a: c["images"][0].pop("width"), "width"),
        (lambda c, a: c["annotations"].clear(), "nothing is annotated"),
        (lambda c, a: [one.update(iscrowd=1) for one in c["annotations"]], "all of its annotations are crowds.*CVAT"),
    ],
)
def test_a_wrong_annotation_is_named(tmp_path, change, words):
    with pytest.raises(
        ConfigurationError, match=rf"instances_val2017\.json: .*{words}.*(take it out|put the published)"
    ):
        open_dataset(write_coco(tmp_path, break_coco(change)))


def test_many_crowds_are_told_of(tmp_path, caplog):
    """Of these nothing is learnt, and who drew them with a brush does not know it."""
    content = break_coco(lambda c, a: [one.update(iscrowd=0) for one in c["annotations"]])
    open_dataset(write_coco(tmp_path, content))
    assert "crowds" not in caplog.text
    for annotation in content["annotations"][1:]:
        annotation["iscrowd"] = 1
    open_dataset(write_coco(tmp_path, content))
    assert f"{len(content['annotations']) - 1} of {len(content['annotations'])} annotations are crowds" in caplog.text


@pytest.mark.parametrize(
    ("format", "name"),
    [("reasonseg", "images"), ("reasonseg", "annotations"), ("refcoco", "annotations"), ("coco", "split_by")],
)
def test_what_a_format_does_not_know_is_refused(format, name):
    options = {"images": "photographs", name: "x"} if format == "refcoco" else {name: "x"}
    with pytest.raises(ConfigurationError, match=f"`{name}`, which the format {format}"):
        DatasetConfig(format, "somewhere", **options)


def test_damaged_run_lengths_are_told_when_they_are_read(tmp_path):
    content = break_coco(lambda c, a: a.update(segmentation={"size": list(SIZE), "counts": "123"}))
    image = open_dataset(write_coco(tmp_path, content))[0]
    with pytest.raises(ConfigurationError, match=r"annotation 101 of the image .*picture\.png: the run lengths do not"):
        image.mask(image.things[1])


# RefCOCO -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pickled", [python2_pickle(references()), pickle.dumps(references(), protocol=2)])
def test_refcoco_is_read(tmp_path, pickled):
    images = open_dataset(write_refcoco(tmp_path, pickled))
    assert len(images) == 1
    image = images[0]
    assert image.path.name == "COCO_train2014_000000000009.jpg"
    assert {thing.id: thing.texts for thing in image.things} == {101: (), **SENTENCES["train"]}
    assert [thing.name for thing in image.things] == ["cup", "cup", "plate", "cherry"]
    assert image.complete, "the right cup is described by nobody in `train`, but the file has it"
    assert np.array_equal(masks_by_id(image)[103], rectangle("cherry"))


def test_texts_that_are_not_ascii(tmp_path):
    described = references()
    described[0]["sentences"][0]["sent"] = "the café's cup"
    image = open_dataset(write_refcoco(tmp_path, python2_pickle(described)))[0]
    assert image.things[0].texts[0] == "the café's cup"


def test_refcoco_with_the_photographs_of_2017(tmp_path):
    config = write_refcoco(tmp_path)
    (tmp_path / "train2014" / "COCO_train2014_000000000009.jpg").rename(tmp_path / "train2014" / "000000000009.jpg")
    assert open_dataset(config)[0].read().shape == (*SIZE, 3)


def test_instances_of_what_is_described_only_are_not_all(tmp_path):
    config = write_refcoco(tmp_path)
    path = tmp_path / "refcoco" / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:4]
    path.write_text(json.dumps(content))
    assert open_dataset(config)[0].complete == ()


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_cannot_run_code(tmp_path):
    config = write_refcoco(tmp_path, pickle.dumps([Harmful(tmp_path / "harm")]))
    with pytest.raises(ConfigurationError, match=r"refs\(unc\)\.p: it is not RefCOCO's pickle \(it names "):
        open_dataset(config)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("pickled", "words"),
    [(b"nonsense", "not RefCOCO's pickle"), (b"", "not RefCOCO's pickle"), (pickle.dumps({}), "does not hold a list"),
     (pickle.dumps([{"ann_id": 1}]), "not RefCOCO's: KeyError"), (pickle.dumps([3]), "not RefCOCO's: TypeError"),
     (pickle.dumps(references()[:1])[:-30], "not RefCOCO's pickle")],
)  # fmt: skip
def test_a_wrong_pickle_is_named(tmp_path, pickled, words):
    (tmp_path / "refcoco").mkdir()
    config = write_refcoco(tmp_path, pickled or b" ")
    with pytest.raises(ConfigurationError, match=rf"refs\(unc\)\.p: .*{words}"):
        open_dataset(config)


def test_a_wrong_choice_in_refcoco_is_told(tmp_path):
    config = write_refcoco(tmp_path)
    with pytest.raises(ConfigurationError, match=r"no split 'testC': choose one of train, val"):
        open_dataset(DatasetConfig("refcoco", config.folder, "testC", images=config.images))
    write_refcoco(tmp_path, split_by="google")
    with pytest.raises(ConfigurationError, match=r"refs\(google\)\.p, refs\(unc\)\.p: set `split_by`"):
        open_dataset(config)
    assert open_dataset(DatasetConfig("refcoco", config.folder, images=config.images, split_by="google"))
    described = references()
    described[1]["ann_id"] = 555
    write_refcoco(tmp_path, python2_pickle(described), "google")
    with pytest.raises(ConfigurationError, match=r"instances\.json: annotation 555 is described, and is not in it"):
        open_dataset(DatasetConfig("refcoco", config.folder, images=config.images, split_by="google"))
    with pytest.raises(ConfigurationError, match="needs `images`"):
        DatasetConfig("refcoco", config.folder)


# ReasonSeg -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_reasonseg_is_read(tmp_path, encoding):
    (image,) = open_dataset(write_reasonseg(tmp_path, encoding=encoding))
    assert image.things[0].texts == ("What would one serve a crêpe on?",)
    assert (image.width, image.height) == SIZE[::-1]
    assert np.array_equal(image.mask(image.things[0]), rectangle("plate") & ~rectangle("cherry"))
    assert np.array_equal(image.mask(image.ignored[0]), rectangle("cherry"))


def test_a_target_in_an_ignored_area_counts(tmp_path):
    shapes = [shape("ignored", *BOXES["plate"]), shape("target", *BOXES["cherry"]), shape("target", *BOXES["left cup"])]
    (image,) = open_dataset(write_reasonseg(tmp_path, shapes))
    assert np.array_equal(image.mask(image.things[0]), rectangle("cherry") | rectangle("left cup"))
    assert np.array_equal(image.mask(image.ignored[0]), rectangle("plate") & ~rectangle("cherry"))


def test_our_own_reasonseg_export_is_read(tmp_path):
    view = make_view()
    write(tmp_path / "picture.jpg", view.image)
    reasonseg.write_annotations(tmp_path / "train", "scene", tmp_path / "picture.jpg", view, INSTRUCTIONS, {})
    images = open_dataset(DatasetConfig("reasonseg", str(tmp_path)))
    assert len(images) == len(INSTRUCTIONS)
    for image, instruction in zip(images, INSTRUCTIONS, strict=True):
        if instruction.targets:
            (thing,) = image.things
            assert thing.texts == (instruction.text,) and not image.absent and not image.ignored
            assert np.array_equal(image.mask(thing), np.isin(view.ids, instruction.targets))
        else:
            assert image.absent == (instruction.text,) and not image.things


@pytest.mark.parametrize(
    ("shapes", "text", "words"),
    [
        ([shape("target", 400, 10, 20, 20)], None, r"one of its `shapes`, from \[400.0, 10.0\], lies outside"),
        ([{"label": "target", "points": [1, 2, 3]}], None, "not pairs of numbers"),
        ([{"label": "target", "points": [["a", 2]]}], None, "could not convert"),
        ([{"label": "target"}], None, "lacks 'points'"),
        ([{"points": [[1, 2]]}], None, "lacks 'label'"),
        (None, "a text", "its `text` is no list"),
    ],
)
def test_a_wrong_reasonseg_file_is_named(tmp_path, shapes, text, words):
    with pytest.raises(ConfigurationError, match=rf"train/a\.json: .*{words}.*put the published file there"):
        open_dataset(write_reasonseg(tmp_path, shapes, text))


# Opening -------------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="no format 'voc' of a data set: choose one of coco, refcoco"):
        DatasetConfig("voc", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"instances_train\.json cannot be read \(No such file"):
        open_dataset(DatasetConfig("coco", str(tmp_path)))
    with pytest.raises(ConfigurationError, match="val holds no annotations"):
        open_dataset(DatasetConfig("reasonseg", str(tmp_path), "val"))
    config = write_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    for text, words in (("{", "it is not JSON"), ("[]", "no JSON object"), ("\xff", "not text in utf-8")):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ConfigurationError, match=rf"instances_val2017\.json: .*{words}"):
            open_dataset(config)


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_a_missing_image_is_named(tmp_path, format):
    config = WRITERS[format](tmp_path)
    images = open_dataset(config)
    path = images[0].path
    path.unlink()
    with pytest.raises(InvalidImageError, match=rf"{path.name} is missing: put it there") as caught:
        open_dataset(config)
    assert ("`images`" in str(caught.value)) == (format != "reasonseg"), "a remedy that helps"
    if format != "reasonseg":
        with pytest.raises(InvalidImageError, match="is missing"):
            images[0].read()
    path.write_bytes(b"not a picture")
    with pytest.raises(InvalidImageError, match=rf"{path.name} is damaged"):
        open_dataset(config)[0].read()


def test_an_image_of_another_size_is_refused(tmp_path):
    images = open_dataset(write_coco(tmp_path))
    write(tmp_path / "val2017" / "picture.png", picture()[:100])
    with pytest.raises(InvalidImageError, match="has 320 x 100 pixels, and its annotations are about 320 x 240"):
        images[0].read()


@pytest.mark.parametrize("as_shown", [True, False])
def test_a_photograph_that_lies_on_its_side(tmp_path, as_shown):
    """Annotated as it is to be shown, or as it is stored."""
    content = instances("picture.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(picture()) if as_shown else picture()
    config = write_coco(tmp_path, content)
    Image.fromarray(stored).save(tmp_path / "val2017" / "picture.jpg", exif=exif, quality=95)
    pixels = open_dataset(config)[0].read()
    assert pixels.shape == (*SIZE, 3)
    assert is_color(pixels, "left cup")[rectangle("left cup")].mean() > 0.95


def many(folder: Path, names: list[str]) -> AnnotatedImages:
    """A data set in COCO's format, its images alike."""
    content = instances("")
    content["images"] = [{**content["images"][1], "id": n, "file_name": name} for n, name in enumerate(names)]
    cup = content["annotations"][0]
    content["annotations"] = [{**cup, "id": n, "image_id": n} for n in range(len(names))]
    folder.mkdir(exist_ok=True)
    (folder / "instances.json").write_text(json.dumps(content))
    return CocoInstances(folder / "instances.json", [folder])


def test_photographs_are_divided_for_validation(tmp_path):
    """Each is held out in all data sets that have it, under any of its names, with all questions about it."""
    numbers = range(1000)
    new, old = [f"{n:012}.jpg" for n in numbers], [f"COCO_train2014_{n:012}.jpg" for n in numbers]
    data = {"new": many(tmp_path, new), "old": many(tmp_path / "refcoco", old[::-1])}
    references = [{"ann_id": n, "split": "train", "sentences": [{"sent": "cup"}]} for n in range(0, 1000, 2)]
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(references))
    data["refcoco"] = RefCoco(tmp_path / "refcoco", tmp_path, "train")
    held_out = {name: {image.path.stem[-12:] for image in divided(images, True)} for name, images in data.items()}
    assert 10 <= len(held_out["new"]) <= 30
    assert held_out["new"] == held_out["old"]
    assert held_out["refcoco"] == {name for name in held_out["new"] if int(name) % 2}  # annotated in reverse order
    for images in data.values():
        train, rest = (divided(images, flag) for flag in (False, True))
        assert sorted([*train.indices, *rest.indices]) == list(range(len(images)))

    for seed, view, question in itertools.product(range(200), range(2), range(3)):
        for suffix in ("json", "jpg"):
            (tmp_path / f"train_{seed:06}_{view}_{question}.{suffix}").touch()
    (tmp_path / "instances.json").unlink()
    images = ReasonSeg(tmp_path)
    scenes = [
        {images.file_name(k)[: len("train_000000")] for k in divided(images, flag).indices} for flag in (False, True)
    ]
    assert scenes[1] and not set.intersection(*scenes) and len(set.union(*scenes)) == 200
    few = open_dataset(write_coco(tmp_path / "few"))
    assert divided(few, False) is few or divided(few, True) is few


def test_the_manuals_examples_are_configurations():
    manual = (Path(__file__).parent.parent / "docs" / "training_data.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", manual, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        config = config_files.build(TrainConfig, yaml.safe_load(example))
        assert config.datasets and config.shares.annotated == 0.5
    for name in (field.name for field in dataclasses.fields(DatasetConfig)):
        assert f"| `{name}` |" in manual


# Parts ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(arrays(bool, (5, 7)), max_size=7))
def test_masks_that_overlap_fit_into_one_map(masks):
    ids, own = overlaid(masks, (5, 7))
    for mask, numbers in zip(masks, own, strict=True):
        assert np.array_equal(np.isin(ids, numbers), mask)
    assert np.array_equal(ids > 0, np.any(masks, 0) if masks else np.zeros((5, 7), bool))


def test_more_combinations_than_ids():
    rng = np.random.default_rng(0)
    masks = [rng.random((64, 64)) < 0.5 for _ in range(12)]
    ids, own = overlaid(masks, (64, 64))
    assert 0 < np.count_nonzero(ids == UNKNOWN) < ids.size
    for mask, numbers in zip(masks, own, strict=True):
        assert np.array_equal(np.isin(ids, numbers), mask & (ids != UNKNOWN))


def test_mirrored_twice_is_as_before():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (8, 12)).astype(np.uint8)
    scene = Scene(rng.integers(0, 255, (8, 12, 3)).astype(np.uint8), ids, (Thing(1, "", "", Box(1, 2, 5, 6), 9),))
    sample = Sample(PromptKind.BOX, Box(0, 1, 3, 8), "", (1,))
    once, samples = mirrored(scene, [sample])
    assert np.array_equal(once.ids[:, 11], ids[:, 0]) and samples[0].box == Box(9, 1, 12, 8)
    assert once.things[0].box == Box(7, 2, 11, 6)
    twice, samples = mirrored(once, samples)
    assert np.array_equal(twice.ids, ids) and np.array_equal(twice.image, scene.image) and samples == [sample]


@pytest.mark.parametrize("size", [(96, 128), (128, 96), (64, 64)])
def test_a_part_shows_what_it_says(images, size, monkeypatch):
    monkeypatch.setattr(parts, "PHOTOGRAPH_SHARE", 0.0)
    sharp = 0
    for seed in range(25):
        part = take_part(np.random.default_rng(seed), images[0], size)
        scene, scale = part.scene, part.scene.ids.shape[0] // size[0]
        assert scene.ids.shape == (size[0] * scale, size[1] * scale) == scene.image.shape[:2]
        sharp += scale == 2
        assert part.asked or part.others
        for seen in part.asked:
            mask = np.isin(scene.ids, seen.targets)
            names = {"cup": ("left cup", "right cup"), "": ("plate",)}.get(seen.annotated.name, (seen.annotated.name,))
            colors = np.any([is_color(scene.image, name) for name in (*names, "cherry")], 0)
            inner = cv2.erode(mask.view(np.uint8), np.ones((5, 5))) > 0
            assert colors[inner].mean() > 0.9
            assert mask_to_box(mask).iou(seen.thing.box) > 0.8
            whole = np.count_nonzero(images[0].mask(seen.annotated)) * scene.ids.size / (SIZE[0] * SIZE[1] * part.share)
            assert seen.thing.area > 0.55 * whole, "less than that is not asked for"
    assert 0 < sharp < 25 or size[0] > 100


# Words ---------------------------------------------------------------------------------------------------------------


def test_sides_and_places_in_four_languages():
    for text in ("the LEFT cup", "rightmost one", "guy at 3 o'clock", "die linke Tasse", "rechts", "a la izquierda",
                 "la taza derecha", "左边的杯子"):  # fmt: skip
        assert says_side(text) and says_place(text)
    for text in ("the middle cup", "second from the window", "top shelf", "3rd cup", "die mittlere", "第三个"):
        assert says_place(text) and not says_side(text)
    for text in ("bright cup", "the blue mug", "cleft stick", "a copyright sign", "die Tasse", "杯子"):
        assert not says_place(text)


def test_names_in_texts():
    assert says_name("Big Yellow PLATE", "plate") and says_name("a guy in red", "person")
    assert not says_name("the yellow one", "plate") and not says_name("mango", "person")


# Prompts -------------------------------------------------------------------------------------------------------------


def meant(text: str) -> list[str]:
    """Which of the picture's things a text means, by the words that the test's files use."""
    if "left" in text or "blue" in text:
        return ["left cup"]
    words = {"plate": "plate", "crêpe": "plate", "turquoise": "right cup", "cup": "cup"}
    if "cherry" in text or "red" in text:
        return ["cherry"]
    named = next((name for word, name in words.items() if word in text), "")
    return ["left cup", "right cup"] if named == "cup" else [named] if named else []


@pytest.mark.parametrize("size", [(120, 160), (128, 96)])
def test_answers_are_right(images, size, monkeypatch):
    """By the colours of the pixels, after cropping, scaling and mirroring."""
    monkeypatch.setattr(parts, "PHOTOGRAPH_SHARE", 0.0)
    kinds, texts = set(), set()
    for seed in range(50):
        prompted = annotated_prompts(np.random.default_rng(seed), images[0], images[0], size, 6)
        if prompted is None:
            continue
        scene, samples = prompted
        height, width = scene.ids.shape
        there = {name: is_color(scene.image, name) for name in BOXES}
        assert 0 < len(samples) == len(set(samples)) <= 6
        for sample in samples:
            kinds.add(sample.kind)
            texts.add(sample.text)
            assert sample.judged
            assert 0 <= sample.box.x0 <= sample.box.x1 <= width and 0 <= sample.box.y0 <= sample.box.y1 <= height
            mask = np.isin(scene.ids, sample.targets)
            assert bool(sample.targets) == (sample.kind is not PromptKind.ABSENT) == bool(mask.any())
            if sample.kind is PromptKind.ABSENT:
                region = np.zeros_like(mask)
                region[sample.box.to_slices(width, height)] = True
                for name in (*meant(sample.text), *(["crowd"] if "cup" in sample.text.split() else [])):
                    if sample.text not in ("blue cup", "the cup on the left") or name != "crowd":
                        assert np.count_nonzero(there[name] & region) < 0.02 * np.count_nonzero(there[name]) + 20
            elif sample.text and sample.kind is not PromptKind.UNKNOWN_TEXT:
                names = [name for name in meant(sample.text) if (there[name] & mask).any()]
                assert len(names) == 1, f"{sample.text!r} means {names}"
                truth = there[names[0]] | (there["cherry"] if names == ["plate"] else False)
                if scene.ids.max() < UNKNOWN or names != ["plate"]:
                    assert mask_iou(mask, truth) > 0.75
                if meant(sample.text) == ["left cup", "right cup"]:
                    other = there[({"left cup", "right cup"} - set(names)).pop()]
                    part = other[sample.box.to_slices(width, height)]
                    assert np.count_nonzero(part) < 0.15 * BOXES["left cup"][2] * BOXES["left cup"][3]
                if "left" in sample.text and there["right cup"].any():
                    assert np.nonzero(mask)[1].mean() < np.nonzero(there["right cup"])[1].mean(), "mirrored"
    assert {PromptKind.BOX_TEXT, PromptKind.ABSENT} <= kinds
    if images[0].complete:
        assert set(PromptKind) - kinds == {PromptKind.LEAF, PromptKind.INSTRUCTION}
        assert {"giraffe", "traffic light"} <= texts
    else:
        assert kinds <= {PromptKind.INSTRUCTION, PromptKind.BOX_TEXT, PromptKind.LOOSE_TEXT, PromptKind.ABSENT}
        assert PromptKind.INSTRUCTION in kinds
    if images[0].things[0].texts and images[0].complete:
        assert "the red one" in texts and "turquoise cup" not in texts
        assert ("the cup on the left" in texts) == (size == (120, 160)), "not where much of the picture is cut off"


def asked(images, size: tuple[int, int], count: int) -> list[tuple[Scene, Sample]]:
    """Prompts about the first image, of `count` parts of it."""
    found = [annotated_prompts(np.random.default_rng(n), images[0], images[0], size, 6) for n in range(count)]
    return [(scene, sample) for scene, samples in filter(None, found) for sample in samples]


@pytest.mark.parametrize("crowd", [False, True])
def test_a_name_is_said_where_one_thing_has_it(tmp_path, crowd, monkeypatch):
    monkeypatch.setattr(parts, "PHOTOGRAPH_SHARE", 0.0)
    content = instances("picture.png")
    content["annotations"] = content["annotations"][: 5 if crowd else 4]
    content["annotations"][4:] = [{**a, "category_id": 2} for a in content["annotations"][4:]]  # a crowd of plates
    images = open_dataset(write_coco(tmp_path, content))
    said = 0
    for scene, sample in asked(images, SIZE, 40):
        name = sample.text.split()[-1] if sample.text else ""
        if sample.kind in (PromptKind.UNKNOWN_TEXT, PromptKind.ABSENT) or name not in ("cup", "plate"):
            continue
        said += 1
        height, width = scene.ids.shape
        region = sample.box.to_slices(width, height)
        rivals = ["left cup", "right cup"] if name == "cup" else ["plate", *(["crowd"] if crowd else [])]
        inside = [rival for rival in rivals if is_color(scene.image[region], rival).sum() > 0.1 * 50 * 60]
        assert len(inside) <= 1, f"{sample.text} at {sample.box}"
    assert said > 10


def test_nothing_is_absent_where_it_may_be_ignored(tmp_path):
    shapes = [shape("target", *BOXES["plate"]), shape("ignore", *BOXES["left cup"])]
    images = open_dataset(write_reasonseg(tmp_path, shapes))
    absent = [(scene, s) for scene, s in asked(images, SIZE, 120) if s.kind is PromptKind.ABSENT]
    assert len(absent) > 5
    for scene, sample in absent:
        height, width = scene.ids.shape
        assert not (scene.ids[sample.box.to_slices(width, height)] > 0).any()


def test_what_is_not_annotated_is_not_called_absent(tmp_path):
    write_coco(tmp_path)
    images = open_dataset(DatasetConfig("coco", str(tmp_path), "val2017", exhaustive=False))
    samples = [s for _, s in asked(images, SIZE, 15)]
    tight = {PromptKind.BOX, PromptKind.BOX_TEXT, PromptKind.SHIFTED, PromptKind.UNKNOWN_TEXT}
    assert {s.kind for s in samples} == tight, "where others may be, a name may mean them"
    assert {s.kind for s in samples if "cup" in s.text} == {PromptKind.BOX_TEXT, PromptKind.SHIFTED}


def test_texts_about_what_is_absent(tmp_path):
    """Of an instruction that means nothing; of another image's things, where their category is not here."""
    images = open_dataset(write_reasonseg(tmp_path / "a", [], ["Where are the scissors?"]))
    _, samples = annotated_prompts(np.random.default_rng(0), images[0], images[0], SIZE, 4)
    assert {(s.kind, s.text) for s in samples} == {(PromptKind.ABSENT, "Where are the scissors?")}
    (tmp_path / "b").mkdir()
    (described,) = open_dataset(write_refcoco(tmp_path / "b"))
    content = instances("picture.png")
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 3]
    (tmp_path / "c").mkdir()
    (here,) = open_dataset(write_coco(tmp_path / "c", content))
    texts = set()
    for seed in range(25):
        _, samples = annotated_prompts(np.random.default_rng(seed), here, described, SIZE, 6)
        texts |= {s.text for s in samples if s.kind is PromptKind.ABSENT and s.box.area == SIZE[0] * SIZE[1]}
    assert "red cherry on the plate" in texts
    assert not texts & {"the red one", "blue cup", "big yellow plate", "cup"}


def test_images_with_nothing_to_ask_for_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "_FRUITLESS", 20)
    images = open_dataset(write_reasonseg(tmp_path, [shape("target", 5, 5, 2, 2)]))
    with pytest.raises(ConfigurationError, match=r"in 20 images .*a\.jpg.* nothing to ask for at 320 x 240"):
        sampling.annotated_scenes(np.random.default_rng(0), [images], SIZE, 4, 1)


# Batches -------------------------------------------------------------------------------------------------------------


def losses_of(batch: Batch, masks: torch.Tensor) -> Losses:
    zeros = torch.zeros(len(batch.texts))
    grounding = torch.zeros(len(batch.images), len(batch.vocabulary) + 1, *batch.grounding.shape[1:])
    output = VlsmOutput(masks, zeros, zeros, torch.zeros_like(batch.cells))
    return compute_losses(output, batch, grounding, torch.zeros(len(batch.named), NAMES))


def test_a_batch_of_each_format(images):
    rng = np.random.default_rng(3)
    size = (96, 128)
    scenes = sampling.annotated_scenes(rng, [images], size, 5, 4)
    batch = collate(rng, scenes, size, 32)
    samples = [(scene, sample) for scene, of_scene in scenes for sample in of_scene]
    assert batch.images.shape == (4, 3, *size) and batch.known.shape == batch.masks.shape == (len(samples), 32, 32)
    assert (batch.grounding == -1).all(), "categories are not the vocabulary's"
    for n, (scene, sample) in enumerate(samples):
        assert batch.masks[n].any() == bool(sample.targets) == bool(batch.present[n])
        if not (scene.ids == UNKNOWN).any():
            assert (batch.known[n] == 1).all()
        else:
            assert not batch.exhaustive[n]
    assert (batch.known == 1).any() and (batch.known == 0).any(), "all three pictures have an ignored area"
    logits = torch.randn(batch.masks.shape, requires_grad=True)
    losses = losses_of(batch, logits)
    assert all(value.isfinite() for value in vars(losses).values())
    losses.total.backward()
    learnt = (batch.known > 0) & batch.present[:, None, None]
    assert (logits.grad[~learnt] == 0).all() and (logits.grad[learnt] != 0).float().mean() > 0.99


def test_an_ignored_area_is_neither_right_nor_wrong():
    ids = np.zeros((64, 64), np.uint8)
    ids[16:48, 16:32] = 1
    ids[16:48, 32:48] = UNKNOWN
    scene = Scene(np.zeros((64, 64, 3), np.uint8), ids, (Thing(1, "", "", Box(16, 16, 32, 48), 512),))
    whole = Sample(PromptKind.WHOLE_TEXT, Box(0, 0, 64, 64), "it", (1,))
    rng = np.random.default_rng(0)
    batch = collate(rng, [(scene, [whole])], (64, 64), 64)
    assert np.array_equal(batch.known[0] == 0, ids == UNKNOWN) and not batch.exhaustive[0]
    right = torch.where(torch.from_numpy(ids) == 1, 9.0, -9.0)[None]
    there_too = torch.where(torch.from_numpy(ids) > 0, 9.0, -9.0)[None]
    one, two = (losses_of(batch, masks) for masks in (right, there_too))
    assert vars(one) == vars(two) and one.cross_entropy < 1e-3 and one.dice < 0.01
    probability = there_too.sigmoid()
    assert soft_iou(probability, batch.masks, batch.known) == 1 and soft_iou(probability, batch.masks) == 0.5
    certain = Scene(scene.image, np.where(ids == UNKNOWN, 0, ids).astype(np.uint8), scene.things)
    batch = collate(rng, [(certain, [whole])], (64, 64), 64)
    assert (batch.known == 1).all() and batch.exhaustive[0]
    assert losses_of(batch, there_too).cross_entropy > 1


def test_losses_where_everything_is_known_are_means():
    generator = torch.Generator().manual_seed(0)
    ids = np.random.default_rng(0).integers(0, 2, (32, 32)).astype(np.uint8)
    scene = Scene(np.zeros((32, 32, 3), np.uint8), ids, ())
    samples = [Sample(PromptKind.BOX, Box(2, 2, 30, 28), "", targets) for targets in ((1,), ())]
    batch = collate(np.random.default_rng(0), [(scene, samples)], (32, 32), 16)
    logits = torch.randn(batch.masks.shape, generator=generator)
    losses = losses_of(batch, logits)
    truth, chance = batch.masks[0], logits[0].sigmoid()
    assert losses.cross_entropy == pytest.approx(torch.nn.functional.binary_cross_entropy(chance, truth).item())
    expected = 1 - (2 * (chance * truth).sum() + 1) / ((chance + truth).sum() + 1)
    assert losses.dice == pytest.approx(expected.item())


@pytest.fixture(scope="module")
def bank():
    return TextureBank(np.random.default_rng(0), 4)


def test_data_sets_are_mixed_with_drawn_images(images, bank):
    sizes, shares = ((64, 96),), Shares(tabletop=0.0, household=0.3, annotated=0.5)
    dataset = MixedDataset(0, sizes, 4, 3, bank, shares, 16, annotated=(images,))
    ground = torch.tensor(GROUND)[:, None, None]
    found = 0
    for step in range(2):
        one, two = dataset[step], dataset[step]
        assert torch.equal(one.images, two.images) and torch.equal(one.masks, two.masks) and one.texts == two.texts
        plain = ((one.images - ground).abs() < 45).all(1).float().mean((1, 2)) > 0.25
        found += int(plain.sum())
    assert 1 <= found <= 7
    only = MixedDataset(0, sizes, 4, 3, bank, Shares(0.0, 0.0, 1.0), 16, annotated=(images,))[0]
    assert len(only.images) == 4 and (only.grounding == -1).all()
    more = MixedDataset(0, sizes, 4, 3, bank, Shares(0.0, 0.0, 1.0), 16, annotated=(images,), questions=5)[0]
    assert len(more.present) > len(more.masks) and len({*more.present[len(more.masks) :].tolist()}) == 2


def test_data_sets_and_their_share_come_together(images, bank):
    for shares, annotated in ((Shares(annotated=0.2), ()), (Shares(), (images,))):
        with pytest.raises(ConfigurationError, match=r"shares\.annotated"):
            MixedDataset(0, ((64, 96),), 2, 3, bank, shares, annotated=annotated)
