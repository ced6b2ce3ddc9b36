"""What the node adds to the segmenter: image in → targets out, minus the segmenter's own time, across two processes.

    python benchmark/node_overhead.py                    # with the Fast DDS profile that the launch file sets
    python benchmark/node_overhead.py --no-profile       # with Fast DDS's defaults

This process is the camera (30 Hz, bgr8, best effort) and the robot program that listens to `targets`; the node runs in
another one, with a segmenter that costs next to nothing (the ellipse in the box), so that the cost left is the node's.
Reported are the time from an image's stamp (taken before it is put into a message) to the arrival of its targets, minus
`segmenter_duration`, the CPU time of the node per frame, and the share of images that never led to targets.
`--segmenter embedded` uses the shipped VLSM instead of the ellipse.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from streaming import NODE, REPOSITORY, Camera, running_node

from rsvp_ros.geometry import Box
from rsvp_ros.ros.client import Client
from rsvp_ros.ros.fastdds import PROFILES_VARIABLE

SIZES = {"640x480": (640, 480), "1280x720": (1280, 720)}
RATE_HZ = 30.0
WARM_UP_FRAMES = 30


class EllipseSegmenter:
    """The ellipse in the box: the baseline for GrabCut and the like, at next to no cost."""

    name = "ellipse"
    reads_text = False

    def encode(self, image: np.ndarray) -> tuple[int, int]:
        return image.shape[:2]

    def segment(self, features, prompts):
        import cv2

        from rsvp_ros.types import Prediction

        predictions = []
        for prompt in prompts:
            mask = np.zeros(features, np.uint8)
            # The prompt is the padded box: remove the padding, or the target would grow from frame to frame.
            (cx, cy), box = prompt.box.center, prompt.box
            axes = (round(box.width / 2 / 1.3), round(box.height / 2 / 1.3))
            cv2.ellipse(mask, (round(cx), round(cy)), axes, 0, 0, 360, 1, -1)
            predictions.append(Prediction(mask.view(bool), 1.0, 1.0))
        return predictions


def serve() -> None:
    """Run the node with the ellipse as its segmenter."""
    from rsvp_ros.ros import node

    node.load_segmenter = lambda config: EllipseSegmenter()
    node.main()


def measure(name: str, size: tuple[int, int], tracking: bool, arguments: argparse.Namespace) -> dict:
    command = NODE if arguments.segmenter == "embedded" else (sys.executable, __file__, "--serve")
    width, height = size
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    with running_node(command) as node, Client() as client:
        client.wait_until_active()
        with Camera(picture, "bgr8", RATE_HZ) as camera:
            if tracking:
                client.follow(Box(width * 0.4, height * 0.4, width * 0.6, height * 0.6))
            first = len(camera.stamps) + WARM_UP_FRAMES
            camera.wait_for(first)
            cpu, start = cpu_seconds(node.pid), time.monotonic()
            camera.wait_for(first + arguments.frames)
            cpu, seconds = cpu_seconds(node.pid) - cpu, time.monotonic() - start
            camera.stop_filming()
    measured = camera.stamps[first : first + arguments.frames]
    answers = [(stamp, camera.answers[stamp]) for stamp in measured if stamp in camera.answers]
    added = [(answer.arrived_ns - stamp - answer.segmenter_ns) * 1e-6 for stamp, answer in answers]
    return {
        "size": name,
        "targets": int(tracking),
        "frames": len(measured),
        "rate_hz": round(arguments.frames / seconds, 1),
        "lost_percent": round(100 * (1 - len(added) / len(measured)), 2),
        "overhead_median_ms": round(float(np.median(added)), 2) if added else None,
        "overhead_p99_ms": round(float(np.percentile(added, 99)), 2) if added else None,
        "node_cpu_ms_per_frame": round(cpu / seconds / RATE_HZ * 1e3, 2),
    }


def cpu_seconds(pid: int) -> float:
    """User plus system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="frames measured per row (default: %(default)s)")
    parser.add_argument("--segmenter", choices=("ellipse", "embedded"), default="ellipse")
    parser.add_argument("--no-profile", action="store_true", help="leave Fast DDS and malloc at their defaults")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = {
        PROFILES_VARIABLE: str(REPOSITORY / "config" / "fastdds.xml"),
        "MALLOC_MMAP_THRESHOLD_": "67108864",
        "MALLOC_TRIM_THRESHOLD_": "268435456",
    }
    if not arguments.no_profile and any(os.environ.get(name) != value for name, value in wanted.items()):
        # malloc reads its thresholds when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)
    rows = [measure(name, size, tracking, arguments) for name, size in SIZES.items() for tracking in (False, True)]
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row[column]) for column in columns) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    if "--serve" in sys.argv:
        sys.argv.remove("--serve")
        serve()
    else:
        main()
