"""The tabletop world as files: what other programs read from them is the truth."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from hand_made_view import INSTRUCTIONS, make_view
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rsvp_ros.errors import ConfigurationError, InvalidImageError
from rsvp_ros.files import write_whole
from rsvp_ros.geometry import mask_iou
from rsvp_ros.tabletop import coco, reasonseg, rle
from rsvp_ros.tabletop.clips import render_moments
from rsvp_ros.tabletop.export import SceneOptions, export
from rsvp_ros.tabletop.kinds import KINDS
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view_files import ViewFiles, read_view, write_view

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def blobs(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """Areas with holes, islands in the holes and thin bridges."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((height, width)), (0, 0), 3)
    return np.abs(noise) > 0.05


# ReasonSeg ------------------------------------------------------------------------------------------------------------


def read_reasonseg(path: Path) -> tuple[np.ndarray, list[str], bool]:
    """Mask (0 background, 1 target, 255 ignored), texts and is_sentence, as LISA's reader understands such a file.

    It takes the file for text in the machine's encoding; drops shapes labelled "flag"; paints the others, those that
    cover more pixels first, each with its border and its inside in whole pixels, 255 where the label says "ignore".
    """
    content = json.loads(path.read_text(encoding="cp1252"))
    height, width = cv2.imread(str(path.with_suffix(".jpg"))).shape[:2]

    def paint(mask: np.ndarray, points: list, value: int) -> np.ndarray:
        corners = [np.array(points, np.int32)]
        cv2.polylines(mask, corners, isClosed=True, color=value, thickness=1)
        return cv2.fillPoly(mask, corners, value)

    shapes = [shape for shape in content["shapes"] if shape["label"].lower() != "flag"]
    shapes.sort(key=lambda s: -paint(np.zeros((height, width), np.uint8), s["points"], 1).sum(dtype=int))
    mask = np.zeros((height, width), np.uint8)
    for shape in shapes:
        paint(mask, shape["points"], 255 if "ignore" in shape["label"].lower() else 1)
    return mask, content["text"], content["is_sentence"]


def drawn(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for points in polygons:
        cv2.fillPoly(mask, [points.astype(np.int32)], 1)
    return mask.astype(bool)


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_polygons_cover_exactly_the_mask(mask):
    polygons = reasonseg.polygons(mask)
    assert all(len(points) >= 3 for points in polygons)
    assert np.array_equal(drawn(polygons, mask.shape), mask)


@pytest.mark.parametrize("seed", range(4))
def test_polygons_of_large_areas_with_holes(seed):
    mask = blobs(seed)
    polygons = reasonseg.polygons(mask)
    assert np.array_equal(drawn(polygons, mask.shape), mask)
    assert drawn(polygons[:-1], mask.shape).sum() < mask.sum()


def test_reasonseg_is_read_back_as_the_truth(tmp_path):
    view = make_view()
    picture = tmp_path / "picture.jpg"
    cv2.imwrite(str(picture), view.image[..., ::-1])
    folder = tmp_path / "train"
    explanations = reasonseg.write_annotations(folder, "scene", picture, view, INSTRUCTIONS, {"seed": 7})
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"scene_{k}.{suffix}" for k in range(4) for suffix in ("jpg", "json")
    )
    for k, instruction in enumerate(INSTRUCTIONS):
        mask, texts, is_sentence = read_reasonseg(folder / f"scene_{k}.json")
        truth = np.isin(view.ids, instruction.targets)
        assert np.array_equal(mask == 1, truth)
        assert not (mask == 255).any()
        assert texts == [instruction.text]
        assert is_sentence == (instruction.language != "de")  # the German one is a phrase
        ours = json.loads((folder / f"scene_{k}.json").read_text())["tabletop"]
        assert ours["seed"] == 7
        assert (ours["language"], ours["kind"]) == (instruction.language, instruction.kind.value)
        assert ours["targets"] == list(instruction.targets)
        assert [step["text"] for step in ours["chain"]] == [step.text for step in instruction.chain]
        assert ours["novel"] == list(instruction.novel)
        assert explanations[k]["image"] == f"scene_{k}.jpg"
        assert explanations[k]["query"] == instruction.text
        assert all(step.text in explanations[k]["outputs"] for step in instruction.chain)
    assert json.loads((folder / "scene_3.json").read_text())["shapes"] == []


def test_a_picture_has_several_names(tmp_path):
    picture = tmp_path / "picture.jpg"
    cv2.imwrite(str(picture), make_view().image)
    for _ in range(2):  # again: nothing changes
        reasonseg.write_annotations(tmp_path / "train", "scene", picture, make_view(), INSTRUCTIONS[:2], {})
    assert os.path.samefile(picture, tmp_path / "train" / "scene_1.jpg")


def test_a_picture_is_copied_where_it_cannot_have_two_names(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    picture = tmp_path / "picture.jpg"
    cv2.imwrite(str(picture), make_view().image)
    reasonseg.write_annotations(tmp_path / "train", "scene", picture, make_view(), INSTRUCTIONS[:1], {})
    copy = tmp_path / "train" / "scene_0.jpg"
    assert copy.read_bytes() == picture.read_bytes()
    assert not os.path.samefile(picture, copy)


# COCO -----------------------------------------------------------------------------------------------------------------


def test_run_lengths_by_hand():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert rle.run_lengths(mask).tolist() == [2, 3, 1]  # down the columns: 00 11 10
    assert rle.run_lengths(~mask).tolist() == [0, 2, 3, 1]
    # "2", "3", "1": a digit below 16 is itself, counted from "0"; the fourth is relative to the second, 1 - 2
    assert rle.encode(mask) == {"size": [2, 3], "counts": "231"}
    assert rle.encode(~mask) == {"size": [2, 3], "counts": "023O"}
    assert rle.decode({"size": [2, 3], "counts": [2, 3, 1]}).tolist() == mask.tolist()


def test_run_lengths_above_one_character():
    # 100 = 3 * 32 + 4: the low five bits with "more follows", then 3
    mask = np.zeros((100, 1), bool)
    assert rle.encode(mask)["counts"] == chr(48 + 32 + 4) + chr(48 + 3)


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_encoded_masks_decode(mask):
    encoded = rle.encode(mask)
    assert json.loads(json.dumps(encoded)) == encoded
    assert np.array_equal(rle.decode(encoded), mask)


@pytest.mark.parametrize("counts", ["23", "2312", [1, 2], [-1, 7]])
def test_counts_that_do_not_fill_the_mask_are_refused(counts):
    with pytest.raises(ValueError, match="2 x 3"):
        rle.decode({"size": [2, 3], "counts": counts})


def test_masks_agree_with_pycocotools():
    reference = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for seed in range(5):
        mask = blobs(seed)
        encoded = rle.encode(mask)
        assert encoded["counts"].encode() == reference.encode(np.asfortranarray(mask, np.uint8))["counts"]
        assert np.array_equal(reference.decode(encoded), mask)


def test_coco_instances():
    view = make_view()
    data = coco.instances([("a.jpg", view), ("b.jpg", view)], "two images")
    assert json.loads(json.dumps(data)) == data
    assert [(image["id"], image["file_name"]) for image in data["images"]] == [(1, "a.jpg"), (2, "b.jpg")]
    assert [a["id"] for a in data["annotations"]] == [1, 2, 3, 4, 5, 6]  # the hidden key has none
    assert [a["image_id"] for a in data["annotations"]] == [1, 1, 1, 2, 2, 2]
    names = {category["id"]: category for category in data["categories"]}
    assert [c["name"] for c in data["categories"]] == list(KINDS)
    assert len(names) == len(KINDS)
    assert min(names) == 1
    for annotation in data["annotations"][:3]:
        thing = view.object(annotation["attributes"]["object_id"])
        assert names[annotation["category_id"]]["name"] == thing.kind
        mask = rle.decode(annotation["segmentation"])
        assert np.array_equal(mask, view.mask(thing.id))
        assert np.array_equal(rle.decode(annotation["full_segmentation"]), thing.full_mask)
        ys, xs = np.nonzero(mask)
        width, height = xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()
        assert annotation["bbox"] == [xs.min(), ys.min(), width, height]
        assert annotation["area"] == len(xs)
        assert annotation["iscrowd"] == 0
        assert annotation["attributes"]["color"] == thing.color
    assert names[coco.CATEGORY_IDS["banana"]]["supercategory"] == "fruit"


# One view on disk -----------------------------------------------------------------------------------------------------


def assert_same_truth(a, b) -> None:
    assert np.array_equal(a.ids, b.ids)
    assert np.array_equal(np.isnan(a.depth), np.isnan(b.depth))
    assert np.nanmax(np.abs(a.depth - b.depth)) <= 0.000501
    assert (a.table, a.stamp_ns) == (b.table, b.stamp_ns)
    assert (a.camera.width, a.camera.height, a.camera.f) == (b.camera.width, b.camera.height, b.camera.f)
    assert np.array_equal(a.camera.world_from_optical, b.camera.world_from_optical)
    assert len(a.objects) == len(b.objects)
    for one, other in zip(a.objects, b.objects, strict=True):
        assert np.array_equal(one.world_from_object, other.world_from_object)
        assert np.array_equal(one.full_mask, other.full_mask)
        plain = {"world_from_object": None, "full_mask": None}
        assert vars(replace(one, **plain)) == vars(replace(other, **plain))


def test_a_view_is_read_back(tmp_path):
    view = make_view()
    view.depth[20, 30] = 0.8126
    view.depth[20, 31] = 70.0  # farther than 16 bits of millimetres go: unknown
    files = ViewFiles.alone(tmp_path / "scene")
    write_view(files, view, INSTRUCTIONS, {"seed": 3})
    again, instructions = read_view(files.record)
    assert again.depth[20, 30] == pytest.approx(0.813)
    view.depth[20, 31] = np.nan
    assert np.array_equal(again.image, view.image)
    assert_same_truth(again, view)
    assert tuple(instructions) == INSTRUCTIONS
    assert json.loads(files.record.read_text())["made_with"] == {"seed": 3}
    assert cv2.imread(str(files.depth), cv2.IMREAD_UNCHANGED)[60, 80] == 1000


def test_a_damaged_view_is_named(tmp_path):
    files = ViewFiles.alone(tmp_path)
    write_view(files, make_view())
    files.depth.write_bytes(files.depth.read_bytes()[:20])
    with pytest.raises(InvalidImageError, match=r"depth\.png is missing or damaged"):
        read_view(files.record)


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"old")
    (tmp_path / ".file.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# Many scenes ----------------------------------------------------------------------------------------------------------

OPTIONS = SceneOptions(Split.NOVEL, size=(160, 120), instructions=4)


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


def test_export_renders_once_for_both_formats(headless_gl, tmp_path):
    from rsvp_ros.tabletop.world import render_scene

    progress: list[tuple[int, int]] = []
    count, folder = export(tmp_path, "reasonseg", OPTIONS, range(3), 2, lambda *done: progress.append(done))
    assert (count, folder) == (3, tmp_path / "novel")
    assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)]
    names = ["novel_000000", "novel_000001", "novel_000002"]
    for part in ("images", "depth", "ids", "scenes"):
        assert stems(tmp_path / part) == names
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "scenes").iterdir()}

    progress.clear()
    count, index = export(tmp_path, "coco", OPTIONS, range(3), 2, lambda *done: progress.append(done))
    assert count == 3
    assert progress == [(3, 3)]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "scenes").iterdir()} == written

    data = json.loads(index.read_text())
    explanations = json.loads((tmp_path / "explanatory" / "novel.json").read_text())
    questions = 0
    for image, name in zip(data["images"], names, strict=True):
        (view,) = render_scene(Split.NOVEL, int(name[-6:]), size=(160, 120))
        again, instructions = read_view(tmp_path / "scenes" / f"{name}.json")
        assert_same_truth(again, view)
        assert np.abs(again.image.astype(int) - view.image).mean() < 4  # JPEG
        assert image["file_name"] == f"{name}.jpg"
        masks = {a["attributes"]["object_id"]: a for a in data["annotations"] if a["image_id"] == image["id"]}
        assert set(masks) == set(np.unique(view.ids)) - {0}
        for number, found in masks.items():
            assert np.array_equal(rle.decode(found["segmentation"]), view.mask(number))
        assert instructions
        for k, instruction in enumerate(instructions):
            mask, texts, _ = read_reasonseg(folder / f"{name}_{k}.json")
            assert mask_iou(mask == 1, np.isin(view.ids, instruction.targets)) == 1
            assert texts == [instruction.text]
            assert explanations[questions]["image"] == f"{name}_{k}.jpg"
            questions += 1
    assert len(list(folder.iterdir())) == 2 * questions == 2 * len(explanations)


def test_export_goes_on_where_it_stopped(headless_gl, tmp_path):
    export(tmp_path, "reasonseg", OPTIONS, range(3))
    records = sorted((tmp_path / "scenes").iterdir())
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in records]
    records[1].unlink()
    count, _ = export(tmp_path, "reasonseg", OPTIONS, range(1, 4))
    assert count == 4  # with the scene of before that was not asked for now
    after = [(path.stat().st_mtime_ns, path.read_bytes()) for path in records]
    assert [data for _, data in after] == [data for _, data in before]
    assert [new == old for (new, _), (old, _) in zip(after, before, strict=True)] == [True, False, True]


def test_scenes_made_otherwise_are_not_mixed(headless_gl, tmp_path):
    export(tmp_path, "coco", OPTIONS, range(1))
    with pytest.raises(ConfigurationError, match=r"made with size \[160, 120\], not \[80, 60\].*--out"):
        export(tmp_path, "coco", replace(OPTIONS, size=(80, 60)), range(1, 2))
    with pytest.raises(ConfigurationError, match="made with views 1, not 2"):
        export(tmp_path, "coco", replace(OPTIONS, views=2), range(1))
    with pytest.raises(ConfigurationError, match="made with moments False, not True"):
        export(tmp_path, "coco", replace(OPTIONS, moments=True), range(1))
    (record,) = (tmp_path / "scenes").iterdir()
    older = json.loads(record.read_text())
    del older["made_with"]["moments"]  # written before there were moments
    record.write_text(json.dumps(older))
    assert export(tmp_path, "coco", OPTIONS, range(2))[0] == 2
    two_splits = replace(OPTIONS, split=Split.TEST, size=(80, 60))
    assert export(tmp_path, "coco", two_splits, range(1))[0] == 1


def test_moments_of_clips(headless_gl, tmp_path):
    options = replace(OPTIONS, split=Split.TRAIN, views=2, moments=True)
    assert export(tmp_path, "coco", options, range(2))[0] == 4
    for seed in range(2):
        moments = render_moments(Split.TRAIN, seed, (160, 120), 2)
        for number, moment in enumerate(moments):
            view, _ = read_view(tmp_path / "scenes" / f"train_{seed:06d}_{number}.json")
            assert_same_truth(view, moment)


@pytest.mark.parametrize("part", ["images", "depth", "ids", "scenes"])
@pytest.mark.parametrize("format", ["reasonseg", "coco"])
def test_what_is_missing_or_empty_is_rendered_again(headless_gl, tmp_path, part, format):
    export(tmp_path, format, OPTIONS, range(2))
    first, second = sorted((tmp_path / part).iterdir())
    whole = first.read_bytes(), second.read_bytes()
    first.write_bytes(b"")
    second.unlink()
    assert export(tmp_path, format, OPTIONS, range(2))[0] == 2
    assert (first.read_bytes(), second.read_bytes()) == whole


@pytest.mark.parametrize("part", ["depth", "ids", "scenes"])
@pytest.mark.parametrize("garbage", [b"garbage", b"[]", b'{"made_with": {}}', b"\xff\xfe"])
def test_garbage_is_named_and_the_remedy_helps(headless_gl, tmp_path, part, garbage):
    export(tmp_path, "coco", OPTIONS, range(1))
    (path,) = (tmp_path / part).iterdir()
    path.write_bytes(garbage)
    record = tmp_path / "scenes" / "novel_000000.json"
    with pytest.raises((InvalidImageError, ConfigurationError)) as error:
        export(tmp_path, "coco", OPTIONS, range(1))
    assert f"delete {record}" in str(error.value) or "delete this one" in str(error.value)
    record.unlink()
    assert export(tmp_path, "coco", OPTIONS, range(1))[0] == 1


def test_a_missing_image_of_a_scene_that_is_not_asked_for_is_named(headless_gl, tmp_path):
    export(tmp_path, "reasonseg", OPTIONS, range(2))
    (tmp_path / "images" / "novel_000001.jpg").unlink()
    with pytest.raises(
        InvalidImageError, match=r"novel_000001\.jpg is missing or damaged: delete .*novel_000001\.json"
    ):
        export(tmp_path, "reasonseg", OPTIONS, range(1))


def test_a_folder_that_cannot_be_is_named(headless_gl, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match=r"file/folder cannot be written to \(Not a directory\).*--out"):
        export(tmp_path / "file" / "folder", "coco", OPTIONS, range(1))


def test_a_full_disk_is_named(headless_gl, tmp_path, monkeypatch):
    def fail(*paths):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rsvp_ros.files.os.replace", fail)
    with pytest.raises(ConfigurationError, match="no space is left .* goes on where it stopped"):
        export(tmp_path, "coco", OPTIONS, range(1))


@pytest.fixture
def running_export(headless_gl, tmp_path):
    """A long export in processes of their own, when it has finished its first scenes: (process, its workers)."""
    command = [sys.executable, "-m", "rsvp_ros.cli", "tabletop", "export", "--count", "5000", "--size", "64x48"]
    command += ["--workers", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not len(list(tmp_path.glob("scenes/*.json"))) > 3:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no scene was written"
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in family if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 2
        yield process, family, workers
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.8])
def test_ctrl_c_while_the_processes_start(headless_gl, tmp_path, delay):
    command = [sys.executable, "-m", "rsvp_ros.cli", "tabletop", "export", "--count", "5000", "--size", "64x48"]
    command += ["--workers", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        family = []
        while sum("spawn_main" in " ".join(child.cmdline()) for child in family) < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no workers were started"
            time.sleep(0.01)
            family = psutil.Process(process.pid).children()
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert not psutil.wait_procs(family, timeout=60)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def assert_whole(folder: Path) -> None:
    records = list(folder.glob("scenes/*.json"))
    assert records
    for record in records:
        view, _ = read_view(record)
        assert view.image.shape == (48, 64, 3)


def test_ctrl_c_leaves_whole_files_and_no_process(running_export, tmp_path):
    process, family, workers = running_export
    for worker in workers:
        worker.send_signal(signal.SIGINT)  # is not for them to answer
    more = len(list(tmp_path.glob("scenes/*.json"))) + 10
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("scenes/*.json"))) < more:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no more scenes were written"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert not [path for path in tmp_path.rglob("*.part")]
    assert_whole(tmp_path)


def test_workers_do_not_outlive_a_killed_export(running_export, tmp_path):
    process, family, _ = running_export
    process.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert_whole(tmp_path)


def test_a_worker_that_dies_is_told(running_export, tmp_path):
    process, family, workers = running_export
    workers[0].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "fewer --workers" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert_whole(tmp_path)
