"""How fast the tabletop world renders scenes: python benchmark/tabletop.py [--scenes 40] [--workers N]

Wall and processor time per scene (drawn from its seed, compiled, settled, one image with depth, ids and full masks) and
per further view; scenes per second with one process and with a pool of processes; and what a clip takes: processor time
per image, and size as a bag with its ground truth.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from rsvp_ros.tabletop.bag import write_bag
from rsvp_ros.tabletop.clips import render_clip, sample_clip
from rsvp_ros.tabletop.scenes import sample_scene
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.world import World, render_scene

SIZES = ((320, 240), (640, 480))


def stages(seed: int, size: tuple[int, int]) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds of each stage of one scene."""
    times, mark = {}, (time.perf_counter(), time.process_time())

    def took(name: str) -> None:
        nonlocal mark
        now = (time.perf_counter(), time.process_time())
        times[name] = (now[0] - mark[0], now[1] - mark[1])
        mark = now

    spec = sample_scene(Split.TRAIN, seed)
    took("draw the scene")
    with World(spec, size) as world:
        took("compile")
        world.settle()
        took("settle")
        for name, camera in zip(("first view", "further view"), spec.cameras, strict=False):
            world.view(camera.camera(*size))
            took(name)
    return times


def render(job: tuple[int, tuple[int, int]]) -> None:
    seed, size = job
    render_scene(Split.TRAIN, seed, size)


def measure_clips(seconds: float, rate: float) -> None:
    """Time to render a clip, and its size with JPEG colour, with JPEG and depth, and with raw colour and depth."""
    for size in SIZES:
        clip = sample_clip(Split.TRAIN, 0, seconds, rate, size)
        start = time.process_time()
        views = list(render_clip(clip))
        print(f"clip of {size[0]} x {size[1]}: {1000 * (time.process_time() - start) / len(views):.0f} ms an image")
        for name, quality, depth in (
            ("JPEG", 85, None),
            ("JPEG and depth", 85, "16UC1"),
            ("raw and depth", None, "16UC1"),
        ):
            with tempfile.TemporaryDirectory() as folder:
                bag = write_bag(Path(folder) / "bag", views, jpeg_quality=quality, depth=depth)
                total = sum(file.stat().st_size for file in bag.iterdir())
            print(
                f"  {name:16} {total / len(views) / 1e3:7.1f} kB an image, {total / seconds * 60 / 1e6:.1f} MB a minute"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of processes in the pool")
    args = parser.parse_args()
    render((0, SIZES[0]))  # warm up: imports, the first OpenGL context
    print(f"OpenGL by {os.environ['MUJOCO_GL']}, {args.scenes} scenes, milliseconds: median wall (processor)")
    for size in SIZES:
        times = defaultdict(list)
        for seed in range(args.scenes):
            for name, pair in stages(seed, size).items():
                times[name].append(pair)
        print(f"{size[0]} x {size[1]}")
        total = np.zeros(2)
        for name, pairs in times.items():
            wall, processor = 1000 * np.median(pairs, axis=0)
            total += (0, 0) if name == "further view" else (wall, processor)
            print(f"  {name:16} {wall:7.1f} ({processor:.1f})")
        print(f"  {'scene, one view':16} {total[0]:7.1f} ({total[1]:.1f})")
    for size in SIZES:
        jobs = [(seed, size) for seed in range(args.scenes)]
        start = time.perf_counter()
        for job in jobs:
            render(job)
        alone = len(jobs) / (time.perf_counter() - start)
        with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(render, [(0, size)] * 4 * args.workers))  # so that every process has started
            start = time.perf_counter()
            list(pool.map(render, jobs))
            together = len(jobs) / (time.perf_counter() - start)
        print(f"{size[0]} x {size[1]}: {alone:.1f} scenes/s in one process, {together:.1f} in {args.workers}")
    measure_clips(seconds=5.0, rate=10.0)


if __name__ == "__main__":
    main()
