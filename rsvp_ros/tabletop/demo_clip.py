"""The clip that comes with the package (`bag.DEMO_CLIP`), and the command that writes it anew:

    python -m rsvp_ros.tabletop.demo_clip FOLDER

Nine things that a person names at a glance. A ball rolls past behind a bottle and back, the gripper carries the mug
out of the image and brings it back, an arm hides the apple, and the scissors slide across the table and back. It ends
as it begins, so that it can be shown again and again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from rsvp_ros.errors import RsvpError
from rsvp_ros.tabletop.bag import DEMO_CLIP, START_NS, write_bag
from rsvp_ros.tabletop.clips import Clip, Event, EventKind, Plan, render_clip
from rsvp_ros.tabletop.kinds import COLORS, KINDS
from rsvp_ros.tabletop.motion import CameraPath
from rsvp_ros.tabletop.rotations import matrix_of, matrix_of_turn, quaternion_of
from rsvp_ros.tabletop.scenes import DROP, CameraSpec, ObjectSpec, SceneSpec, SensorSpec, sample_scene
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.world import World

SIZE, RATE_HZ, SECONDS = (320, 240), 10.0, 18.0
JPEG_QUALITY = 85
BACKGROUND = 17
"""Seed of the training scene whose table, room and light it uses."""

# Kind, colour, pattern, the shape's seed, x and y (m), yaw (degrees)
THINGS = (
    ("mug", "blue", "plain", 0, 0.20, 0.06, -20),
    ("apple", "red", "plain", 0, -0.27, -0.02, 0),
    ("bottle", "green", "plain", 0, -0.06, 0.10, 0),
    ("banana", "yellow", "plain", 0, 0.10, -0.08, 20),
    ("scissors", "orange", "plain", 0, -0.14, -0.18, 60),
    ("ball", "purple", "striped", 0, -0.25, 0.20, 0),
    ("book", "pink", "plain", 0, 0.30, -0.10, 10),
    ("hammer", "brown", "plain", 0, 0.09, -0.215, 5),
    ("remote", "black", "plain", 0, -0.36, 0.10, -25),
)
MUG, APPLE, BALL, SCISSORS = 1, 2, 6, 5


def demo_scene() -> SceneSpec:
    """What is on the table, and the camera in front of it."""
    background = sample_scene(Split.TRAIN, BACKGROUND)
    return replace(
        background,
        objects=tuple(_thing(number, *thing) for number, thing in enumerate(THINGS, 1)),
        table=replace(background.table, width=1.1, depth=0.75),
        cameras=(CameraSpec(eye=(0.0, -0.72, 0.72), target=(-0.02, 0.01, 0.02), fovy=38.0),),
        sensor=SensorSpec(1, 1.15, (1.0, 1.0, 1.0), 0.1, 0.5, (0.0, 0.0), 0.6, 97),
    )


def _thing(number: int, kind: str, color: str, pattern: str, seed: int, x: float, y: float, yaw: float) -> ObjectSpec:
    low, high = np.array(COLORS[color])
    thing = ObjectSpec(
        id=number,
        kind=kind,
        color=color,
        pattern=pattern,
        material=KINDS[kind].materials[0],
        rgb=tuple(map(float, (low + high) / 2)),
        shape_seed=seed,
        position=(x, y, 0.0),
        quaternion=(1.0, 0.0, 0.0, 0.0),
    )
    rest = max(thing.shape.rests, key=lambda rest: rest.probability)
    turn = matrix_of_turn((0.0, 0.0, np.radians(yaw))) @ matrix_of(rest.quaternion)
    return replace(thing, position=(x, y, rest.height + DROP), quaternion=quaternion_of(turn))


def demo_clip() -> Clip:
    """Scene, camera and events. Raises ConfigurationError if there is nothing to draw with."""
    scene, rng = demo_scene(), np.random.default_rng(0)
    camera = CameraPath(scene.cameras[0], SECONDS, swing=0.16, approach=0.04, shake=0.0015)
    with World(scene, SIZE) as world:
        world.settle()
        plan = Plan(world, camera, SIZE)
    slide = EventKind.SLIDE
    done = [
        plan.slide(Event(slide, BALL, 0.5, 3.3), (0.33, 0.0)),
        plan.add(Event(EventKind.CARRY, MUG, 3.1, 10.9), rng),
        plan.add(Event(EventKind.HIDE, APPLE, 11.0, 14.0), rng),
        plan.slide(Event(slide, SCISSORS, 11.5, 13.5), (0.02, 0.15), 1.2),
        plan.slide(Event(slide, BALL, 14.0, 16.8), (-0.33, 0.0)),
        plan.slide(Event(slide, SCISSORS, 14.6, 17.0), (-0.02, -0.15), -1.2),
    ]
    assert all(done), f"the things have been moved so that something is in the way: {done}"
    return Clip(scene, SIZE, SECONDS, RATE_HZ, camera, plan.paths, tuple(plan.gripper), tuple(plan.events))


def main(arguments: list[str] | None = None) -> int:
    """Write the clip; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rsvp_ros.tabletop.demo_clip", description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=DEMO_CLIP, help="folder to write the clip to (default: %(default)s)"
    )
    folder = parser.parse_args(arguments).folder
    try:
        write_bag(folder, render_clip(demo_clip(), start_ns=START_NS), jpeg_quality=JPEG_QUALITY)
    except RsvpError as error:
        print(f"demo_clip: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {SECONDS:g} s at {RATE_HZ:g} Hz, {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
