"""How reasoning affects the frames: images without an answer, and the time between answers, with and without it.

    python benchmark/frames_while_reasoning.py [--params config/embedded.yaml] [--rate 10] [--seconds 30]

The node runs in its own process with a parameter file; this process is the camera (a rendered view of the tabletop,
320x240; extra `sim`) and the robot program. One target is followed all the time. In the first part, nothing else is
asked; in the second, instructions follow each other without a pause, and each target found replaces the one before.
Some of them the embedded MLLM passes on to stage 2 by looks, for others it lists all things. Reported for both parts:
images, the share of those without an answer, median and p99 of the time between two answers, and the median time of an
instruction.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path

import numpy as np
from streaming import NODE, REPOSITORY, Camera, running_node

from rsvp_ros.ros.client import Client
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.world import render_scene

SEED = 3


def row(name: str, camera: Camera, first: int, last: int, asked: list[float]) -> str:
    """A table row for the images from index `first` up to, but not including, `last`."""
    stamps = camera.stamps[first:last]
    arrivals = sorted(camera.answers[stamp].arrived_ns for stamp in stamps if stamp in camera.answers)
    between = np.diff(arrivals) * 1e-6
    lost = 1 - len(arrivals) / len(stamps)
    times = f"{np.median(between):.0f} | {np.percentile(between, 99):.0f}"
    instructions = f"{len(asked)}, {np.median(asked) * 1e3:.0f} ms" if asked else "-"
    return f"| {name} | {len(stamps)} | {lost:.1%} | {times} | {instructions} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=REPOSITORY / "config" / "embedded.yaml")
    parser.add_argument("--rate", type=float, default=10.0, help="rate of the camera [Hz]")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each of the two parts [s]")
    options = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    view = render_scene(Split.TRAIN, SEED)[0]
    thing = max(view.things, key=lambda thing: thing.box.area)
    instructions = (
        f"the {thing.color} {thing.kind}",
        "the leftmost thing",
        f"what is next to the {thing.kind}",
        "what could roll off the table",
    )
    with (
        running_node(NODE, "--params-file", str(options.params)),
        Camera(view.image, "rgb8", options.rate) as camera,
        Client() as client,
    ):
        client.wait_until_active()
        client.find(instructions[0])  # so that the model is loaded and warm
        client.follow(thing.box, thing.kind)
        time.sleep(2)
        first = len(camera.stamps)
        time.sleep(options.seconds)
        middle = len(camera.stamps)
        asked = []
        ends = time.monotonic() + options.seconds
        for instruction in itertools.cycle(instructions):
            if time.monotonic() > ends:
                break
            started = time.monotonic()
            client.find(instruction)
            asked.append(time.monotonic() - started)
        last = len(camera.stamps)
        camera.stop_filming()
    print("| | images | without an answer | median between two, ms | p99, ms | instructions, median |")
    print("|---|---|---|---|---|---|")
    print(row("idle", camera, first, middle, []))
    print(row("reasoning", camera, middle, last, asked))


if __name__ == "__main__":
    main()
