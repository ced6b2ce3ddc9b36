"""Scenes of the tabletop world: what their splits promise, and that images, depths, masks and poses are one truth."""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.geometry import mask_iou, mask_to_box
from rsvp_ros.tabletop import backgrounds, rendering
from rsvp_ros.tabletop.kinds import KINDS, TRAINING_KINDS, is_held_out_pair
from rsvp_ros.tabletop.scenes import CameraSpec, SensorSpec, look_at, sample_scene
from rsvp_ros.tabletop.sensor import expose
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import View
from rsvp_ros.tabletop.world import World, render_scene

SEEDS = range(10)
CONVEX = ("ball", "apple", "orange", "cube", "box", "can", "book", "battery", "sponge", "candle")


def digest(view: View) -> str:
    """Of everything in a view."""
    total = hashlib.sha256()
    for array in (view.image, view.depth, view.ids, view.camera.world_from_optical):
        total.update(np.ascontiguousarray(array).tobytes())
    for thing in view.objects:
        total.update(thing.world_from_object.tobytes() + np.packbits(thing.full_mask).tobytes())
        total.update(repr((thing.id, thing.kind, thing.color, thing.box, thing.visible, thing.inside)).encode())
    return total.hexdigest()


def render_digest(split: Split, seed: int) -> str:
    return digest(render_scene(split, seed)[0])


@pytest.fixture(scope="module")
def scenes():
    return {split: [sample_scene(split, seed) for seed in SEEDS] for split in Split}


@pytest.fixture(scope="module")
def views(headless_gl) -> list[list[View]]:
    """Five scenes, each from two sides."""
    return [render_scene(Split.NOVEL, seed, views=2) for seed in range(5)]


# ---- Scenes


def test_training_and_validation_never_hold_what_is_held_out(scenes):
    for split in (Split.TRAIN, Split.VAL):
        for scene in scenes[split]:
            assert all(thing.kind in TRAINING_KINDS for thing in scene.objects)
            assert not any(is_held_out_pair(thing.kind, thing.color) for thing in scene.objects)
            assert scene.table.style not in backgrounds.HELD_OUT_TOPS


def test_the_other_splits_hold_it(scenes):
    pairs = [is_held_out_pair(thing.kind, thing.color) for scene in scenes[Split.TEST] for thing in scene.objects]
    assert 0.08 < np.mean(pairs) < 0.5
    assert any(scene.table.style in backgrounds.HELD_OUT_TOPS for scene in scenes[Split.TEST])
    assert all(thing.kind in TRAINING_KINDS for scene in scenes[Split.TEST] for thing in scene.objects)
    for scene in scenes[Split.NOVEL]:
        assert 1 <= sum(KINDS[thing.kind].held_out for thing in scene.objects) <= 2


def test_no_two_splits_share_a_scene(scenes):
    arrangements = [
        tuple((thing.kind, thing.position) for thing in scene.objects) for split in Split for scene in scenes[split]
    ]
    assert len(set(arrangements)) == len(arrangements)


def test_scenes_are_what_instructions_need(scenes):
    every = [scene for split in Split for scene in scenes[split]]
    counts = [len(scene.objects) for scene in every]
    assert min(counts) >= 3 and max(counts) <= 12 and len(set(counts)) >= 7
    kinds = [[thing.kind for thing in scene.objects] for scene in every]
    colors = [[thing.color for thing in scene.objects] for scene in every]
    assert np.mean([len(set(names)) < len(names) for names in kinds]) > 0.3  # two of one kind
    assert np.mean([len(set(names)) < len(names) for names in colors]) > 0.5  # two of one colour
    for scene in every:
        assert [thing.id for thing in scene.objects] == list(range(1, len(scene.objects) + 1))
        for thing in scene.objects:
            kind = KINDS[thing.kind]
            assert thing.color in kind.colors and thing.pattern in kind.patterns and thing.material in kind.materials
        for camera in scene.cameras:
            distance = np.linalg.norm(np.subtract(camera.eye, camera.target))
            height = (camera.eye[2] - camera.target[2]) / distance
            assert 0.55 <= distance <= 1.1 and 30 <= np.degrees(np.arcsin(height)) <= 65


def test_the_number_of_things_can_be_asked_for():
    assert [len(sample_scene(Split.TRAIN, seed, objects=(4, 4)).objects) for seed in range(5)] == [4] * 5


def test_a_scene_follows_from_its_split_and_seed_bit_for_bit(headless_gl):
    """Here, in another thread, and in a process of a pool."""
    expected = render_digest(Split.TEST, 7)
    assert render_digest(Split.TEST, 7) == expected
    assert render_digest(Split.TEST, 8) != expected
    from_thread: list[str] = []
    thread = threading.Thread(target=lambda: from_thread.append(render_digest(Split.TEST, 7)))
    thread.start()
    thread.join(60)
    assert from_thread == [expected]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(render_digest, Split.TEST, 7).result(60) == expected


def test_scenes_that_cannot_be_are_refused():
    with pytest.raises(ConfigurationError, match="a seed is 0 or more"):
        sample_scene(Split.TRAIN, -1)
    with pytest.raises(ConfigurationError, match="with 5 to 3 things"):
        sample_scene(Split.TRAIN, 1, objects=(5, 3))


# ---- Geometry


def test_depth_of_the_table_lies_on_the_table(views):
    for view in (view for pair in views for view in pair):
        points = view.camera.unproject(view.depth)
        on_top = (view.ids == 0) & (np.abs(points[..., 2]) < 0.02)
        on_top &= (np.abs(points[..., :2]) < np.array(view.table) / 2 - 0.005).all(-1)
        assert np.count_nonzero(on_top) > 5000
        assert np.abs(points[on_top][:, 2]).max() < 1e-4


def test_what_is_seen_of_a_thing_lies_in_the_box_around_it(views):
    """Masks, depth and poses agree: also at the silhouettes, to the last pixel."""
    for view in (view for pair in views for view in pair):
        points = view.camera.unproject(view.depth)
        for thing in view.objects:
            own = points[view.mask(thing.id)] - thing.position
            local = own @ thing.world_from_object[:3, :3]
            assert (np.abs(local) <= np.array(thing.dimensions) / 2 + 0.0005).all(), thing.kind


def test_what_stands_on_the_table_is_a_thing(views):
    for view in (view for pair in views for view in pair):
        points = view.camera.unproject(view.depth)
        inside = (np.abs(points[..., :2]) < np.array(view.table) / 2).all(-1)
        assert not np.any((view.ids == 0) & inside & (points[..., 2] > 0.0005))


def smooth(inverse: np.ndarray) -> np.ndarray:
    """Of the squares between four pixels: bool (H - 1) x (W - 1), whether depth is nearly flat in them."""
    corners = inverse[:-1, :-1], inverse[1:, 1:], inverse[:-1, 1:], inverse[1:, :-1]
    return np.abs(corners[0] + corners[1] - corners[2] - corners[3]) < 0.002


def test_depth_reprojects_into_the_other_camera_within_2_mm(views):
    compared = 0
    for first, second in views:
        points, ids = first.camera.unproject(first.depth)[:-1, :-1], first.ids[:-1, :-1]
        usable = smooth(1 / first.depth) & np.isfinite(points[..., 2]) & (points[..., 2] > -0.01)
        u, v, depth = second.camera.project(points[usable]).T
        ids = ids[usable]
        inside = (u > 0) & (v > 0) & (u < second.camera.width - 1) & (v < second.camera.height - 1)
        u, v, depth, ids = u[inside], v[inside], depth[inside], ids[inside]
        column, row = u.astype(int), v.astype(int)
        x, y = u - column, v - row
        inverse = 1 / second.depth
        same = smooth(inverse)[row, column]
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            same &= second.ids[row + down, column + right] == ids
        between = (
            inverse[row, column] * (1 - x) * (1 - y)
            + inverse[row, column + 1] * x * (1 - y)
            + inverse[row + 1, column] * (1 - x) * y
            + inverse[row + 1, column + 1] * x * y
        )
        error = np.abs(1 / between - depth)[same & (depth < 1 / between + 0.01)]  # not hidden from the second
        assert np.percentile(error, 99.5) < 0.002
        compared += len(error)
    assert compared > 50_000


def test_the_middle_of_a_convex_thing_is_seen_where_it_projects(views):
    checked = 0
    for view in (view for pair in views for view in pair):
        for thing in view.objects:
            u, v, _ = view.camera.project(thing.position[None])[0]
            if thing.kind in CONVEX and 0 <= u <= view.camera.width - 1 and 0 <= v <= view.camera.height - 1:
                assert thing.full_mask[round(v), round(u)], thing.kind
                checked += 1
    assert checked > 10


def test_a_known_point_is_drawn_within_half_a_pixel(headless_gl):
    """A ball right in front of cameras: the middle of its silhouette against the projection of its middle."""
    scene = next(s for s in map(lambda i: sample_scene(Split.TRAIN, i), range(40)) if "ball" in kinds_of(s))
    ball = next(thing for thing in scene.objects if thing.kind == "ball")
    with World(scene, (321, 200)) as world:
        pose = np.eye(4)
        pose[:3, 3] = (0, 0, 0.4)
        world.place(ball.id, pose)
        for target in ((0, 0, 0.4), (0.1, 0, 0.4), (0, 0.05, 0.45)):
            camera = CameraSpec((0.1, -0.9, 0.5), target, 50).camera(321, 200)
            box = world.view(camera, sensor=False).object(ball.id).box
            u, v, _ = camera.project(pose[None, :3, 3])[0]
            middle = (box.x0 + box.x1 - 1) / 2, (box.y0 + box.y1 - 1) / 2
            # a sphere's silhouette is pushed outwards off the axis, by less than half a pixel here
            assert np.abs(np.subtract(middle, (u, v))).max() <= 0.75
        with_ball = world.view(camera, sensor=False)
        world.place(ball.id, pose - [[0] * 4, [0] * 4, [0, 0, 0, 40], [0] * 4])
        without = world.view(camera, sensor=False)
    mask = with_ball.mask(ball.id)
    changed = np.abs(with_ball.image.astype(int) - without.image).max(-1) > 12
    near = cv2.dilate(mask.view(np.uint8), np.ones((9, 9))) > 0  # its shadow is elsewhere
    assert mask_iou(changed & near, mask) > 0.95
    same = look_at((0.1, -0.9, 0.5), (0, 0, 0.4)) @ [0, 0, 1, 1]
    assert np.allclose(np.cross(same[:3] - (0.1, -0.9, 0.5), np.subtract((0, 0, 0.4), (0.1, -0.9, 0.5))), 0)


def kinds_of(scene) -> list[str]:
    return [thing.kind for thing in scene.objects]


# ---- Masks


def test_shares_follow_from_the_full_masks(views):
    hidden = 0
    for view in (view for pair in views for view in pair):
        for thing in view.objects:
            seen, whole = view.mask(thing.id), thing.full_mask
            assert not np.any(seen & ~whole)
            assert thing.area == np.count_nonzero(seen) and thing.box == mask_to_box(seen)
            assert thing.visible == pytest.approx(thing.area / max(np.count_nonzero(whole), 1))
            hidden += np.count_nonzero(whole & ~seen)
            assert not np.any(view.ids[whole & ~seen] == 0)  # only other things hide a thing on a table
    assert hidden > 100


def test_a_full_mask_is_what_is_seen_of_a_thing_alone(headless_gl):
    scene = max((sample_scene(Split.TRAIN, seed, objects=(9, 9)) for seed in range(4)), key=crowdedness)
    camera = scene.cameras[0].camera(320, 240)
    far = np.eye(4)
    far[:3, 3] = (0, 0, -40)
    with World(scene) as world:
        world.settle()
        together, poses = world.view(camera), world.poses
        assert sum(thing.visible < 0.95 for thing in together.objects) >= 3
        for alone in poses:
            for i, pose in poses.items():
                world.place(i, pose if i == alone else far)
            assert np.array_equal(world.view(camera).mask(alone), together.object(alone).full_mask)


def crowdedness(scene) -> float:
    spots = np.array([thing.position for thing in scene.objects])
    return -np.linalg.norm(spots - spots.mean(0), axis=1).mean()


def test_inside_is_the_share_that_a_larger_image_shows(headless_gl):
    scene = sample_scene(Split.TEST, 3)
    with World(scene, (960, 720)) as world:
        world.settle()
        x, y, _ = np.mean([pose[:3, 3] for pose in world.poses.values()], axis=0)
        small = CameraSpec((x, y - 0.7, 0.6), (x, y, 0), 25).camera(320, 240)
        large = replace(small, width=960, height=720)
        near, wide = world.view(small), world.view(large)
    shares = []
    for thing in wide.objects:
        box = mask_to_box(thing.full_mask)
        if thing.inside < 1 or box is None:
            continue
        moved = box.translate(-320, -240)
        share = moved.clip(320, 240).area / moved.area
        shares.append(share)
        assert near.object(thing.id).inside == pytest.approx(share, abs=0.04)
    assert min(shares) < 0.9 and max(shares) == 1


def test_full_masks_can_be_left_out(views):
    scene = sample_scene(Split.NOVEL, 0)
    with World(scene) as world:
        world.settle()
        view = world.view(scene.cameras[0].camera(320, 240), full_masks=False)
    assert all(thing.full_mask is None for thing in view.objects)
    assert [thing.visible for thing in view.objects] == [thing.visible for thing in views[0][0].objects]
    assert np.array_equal(view.image, views[0][0].image)


# ---- Moving things


def test_things_lie_still_on_the_table(headless_gl):
    for seed in range(6):
        scene = sample_scene(Split.TEST, seed)
        with World(scene) as world:
            world.settle()
            for i, pose in world.poses.items():
                assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
                vertices = np.concatenate([part.vertices for part in world.objects[i].shape.parts])
                lowest = (vertices @ pose[:3, :3].T + pose[:3, 3])[:, 2].min()
                # A carrot's leaves and a banana's belly dip into the table; a thing may lean on another
                assert -0.015 < lowest < 0.06, world.objects[i].kind
            before = world.poses
            world.settle()
            moved = [np.linalg.norm(world.poses[i][:3, 3] - before[i][:3, 3]) for i in world.poses]
            assert max(moved) < 0.03


def test_what_falls_off_the_table_is_gone(headless_gl):
    scene = sample_scene(Split.TRAIN, 1)
    with World(scene) as world:
        pose = world.poses[1]
        pose[:3, 3] = (scene.table.width / 2 + 0.3, 0, 0.1)
        world.place(1, pose)
        world.settle()
        assert 1 not in world.poses and set(world.poses) >= {2}
        view = world.view(scene.cameras[0].camera(320, 240))
        assert 1 not in {thing.id for thing in view.objects} and not np.any(view.ids == 1)
        with pytest.raises(KeyError):
            world.place(99, pose)


def test_a_gripper_hides_things_and_is_none_of_them(headless_gl):
    scene = sample_scene(Split.TRAIN, 1)
    camera = scene.cameras[0].camera(320, 240)
    with World(scene) as world:
        world.settle()
        before = world.view(camera)
        thing = min(before.things, key=lambda o: o.area)
        above = np.diag([1.0, -1.0, -1.0, 1.0])  # fingers down
        above[:3, 3] = thing.position + 0.25 * (camera.world_from_optical[:3, 3] - thing.position)
        above[2, 3] -= 0.095  # its palm is that far above its fingertips
        world.place_gripper(above)
        during = world.view(camera)
        world.place_gripper(None)
        after = world.view(camera)
    assert during.object(thing.id).visible < 0.8 * before.object(thing.id).visible
    assert np.array_equal(during.object(thing.id).full_mask, before.object(thing.id).full_mask)
    assert np.any((during.depth < before.depth - 0.02) & (during.ids == 0))
    assert digest(after) == digest(before)


def test_a_world_is_looked_at_by_its_thread_while_it_is_open(headless_gl):
    scene = sample_scene(Split.TRAIN, 2, objects=(3, 3))
    camera = scene.cameras[0].camera(64, 48)
    errors: list[Exception] = []

    def look() -> None:
        try:
            world.view(camera)
        except RuntimeError as error:
            errors.append(error)

    with World(scene, (64, 48)) as world:
        with pytest.raises(ValueError, match="65 x 48 is larger"):
            world.view(replace(camera, width=65))
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(60)
        world.view(camera)
    look()
    assert ["in the thread that made it" in str(error) for error in errors] == [True, True]


def test_time_changes_only_the_noise(headless_gl):
    scene = sample_scene(Split.TRAIN, 2)
    camera = scene.cameras[0].camera(320, 240)
    with World(scene) as world:
        first, second = world.view(camera, stamp_ns=1), world.view(camera, stamp_ns=2)
        clean, again = world.view(camera, sensor=False, stamp_ns=1), world.view(camera, sensor=False, stamp_ns=2)
    assert (first.stamp_ns, second.stamp_ns) == (1, 2)
    assert np.array_equal(first.depth, second.depth) and np.array_equal(first.ids, second.ids)
    assert not np.array_equal(first.image, second.image)
    assert np.array_equal(clean.image, again.image)


def test_worlds_leave_no_memory_behind(headless_gl):
    def megabytes() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    sizes = []
    for seed in range(30):
        render_scene(Split.TRAIN, seed % 3, objects=(3, 3))
        sizes.append(megabytes())
    assert sizes[-1] - sizes[9] < 30


# ---- The sensor


PERFECT = SensorSpec(
    seed=0,
    exposure=1,
    white_balance=(1, 1, 1),
    vignetting=0,
    defocus=0,
    motion=(0, 0),
    noise=0,
    quality=100,
)


def grey_and_edge() -> np.ndarray:
    image = np.full((120, 160, 3), 100, np.uint8)
    image[:, 80:] = 180
    return image


def seen(**faults) -> np.ndarray:
    return expose(grey_and_edge(), replace(PERFECT, **faults), np.random.default_rng(0)).astype(float)


def test_a_perfect_sensor_changes_nothing():
    assert np.abs(seen() - grey_and_edge()).max() <= 2


def test_each_fault_shows():
    assert seen(exposure=1.2)[:, :60].mean() == pytest.approx(120, abs=1)
    assert np.allclose(seen(white_balance=(1.1, 1, 0.9))[:, :60].mean((0, 1)), (110, 100, 90), atol=2)
    assert seen(vignetting=0.2)[0, 0].mean() == pytest.approx(80, abs=2)
    assert seen(vignetting=0.2)[60, 75].mean() == pytest.approx(100, abs=2)
    assert seen(noise=8)[:, :60].std() == pytest.approx(2 * seen(noise=4)[:, :60].std(), rel=0.15)
    assert seen(noise=4)[:, :60].std() > 2
    edge = {name: np.abs(np.diff(image[60, 70:90, 0])).max() for name, image in {
        "sharp": seen(), "defocus": seen(defocus=8), "along": seen(motion=(40, 0)), "across": seen(motion=(0, 40))
    }.items()}  # fmt: skip
    assert edge["sharp"] > 70 and edge["across"] > 70 and edge["defocus"] < 40 and edge["along"] < 40


# ---- What can be missing


def without_libraries(monkeypatch, *missing: str) -> None:
    load = ctypes.CDLL

    def refuse(name, *args, **kwargs):
        if name and any(part in name for part in missing):
            raise OSError(f"{name}: cannot open shared object file")
        return load(name, *args, **kwargs)

    monkeypatch.setattr(ctypes, "CDLL", refuse)


def test_the_backend_that_is_installed_is_taken(monkeypatch, headless_gl):
    monkeypatch.delenv("MUJOCO_GL")
    without_libraries(monkeypatch, "EGL" if headless_gl == "osmesa" else "OSMesa")
    assert rendering.choose_backend() == headless_gl


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    without_libraries(monkeypatch, "EGL", "OSMesa")
    with pytest.raises(ConfigurationError, match=r"apt install libegl1 libegl-mesa0.* or sudo apt install libosmesa6"):
        rendering.choose_backend()
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(ConfigurationError, match=r"MUJOCO_GL=egl.*apt install libegl1 libegl-mesa0"):
        rendering.choose_backend()
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(ConfigurationError, match=r"MUJOCO_GL=osmesa.*apt install libosmesa6"):
        rendering.choose_backend()


def test_missing_mujoco_is_named(monkeypatch, headless_gl):
    monkeypatch.setenv("MUJOCO_GL", headless_gl)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'rsvp_ros\[sim\]'"):
        rendering.load_mujoco.__wrapped__()


@pytest.mark.parametrize("backend", ["glfw", "egl", "osmesa"])
def test_mujoco_gl_is_respected(headless_gl, backend):
    """By a fresh process, before MuJoCo is imported."""
    code = (
        "import os\nfrom rsvp_ros.tabletop.splits import Split\nfrom rsvp_ros.tabletop.world import render_scene\n"
        "print(render_scene(Split.TRAIN, 0, (64, 48))[0].image.std() > 5, os.environ['MUJOCO_GL'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MUJOCO_GL": backend},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if backend == "glfw":
        assert "ConfigurationError: MUJOCO_GL=glfw cannot draw without a screen" in run.stderr
    elif "its OpenGL library is missing" in run.stderr:
        pytest.skip(run.stderr.splitlines()[-1])
    else:
        assert run.stdout.split() == ["True", backend], run.stderr
        assert run.stderr == ""


def test_torch_compiles_after_scenes_were_drawn(headless_gl):
    """Triton's LLVM after that of Mesa's driver would end the process."""
    pytest.importorskip("triton")
    code = (
        "from rsvp_ros.tabletop.splits import Split\nfrom rsvp_ros.tabletop.world import render_scene\n"
        "render_scene(Split.TRAIN, 0, (64, 48))\nimport torch._dynamo\nprint('both')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.split() == ["both"], f"exit status {run.returncode}: {run.stderr}"


def test_an_image_that_opengl_cannot_draw_is_refused(headless_gl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves a log where it is
    with pytest.raises(ConfigurationError, match="cannot draw images of 100000 x 100000 pixels.*smaller"):
        render_scene(Split.TEST, 0, size=(100000, 100000))
    assert render_scene(Split.TEST, 0, size=(64, 48))[0].image.any(), "the next one is drawn"
