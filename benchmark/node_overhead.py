"""What the node adds to the segmenter: image in → targets out, minus the segmenter's own time, over two processes.

    python benchmark/node_overhead.py                    # with the Fast DDS profile that the launch file sets
    python benchmark/node_overhead.py --no-profile       # with Fast DDS's defaults

This process is the camera (30 Hz, bgr8, best effort) and the robot program that listens to `targets`; the node runs in
another one, with a segmenter that costs next to nothing (the ellipse in the box), so that all that is left is the
node's. The time from an image's stamp (taken before it is put into a message) to the arrival of its targets, minus
`segmenter_duration`, is what is reported, with the CPU time of the node a frame and the share of images that never led
to targets. `--segmenter embedded` puts the shipped VLSM in its place.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from rsvp_ros.ros.fastdds import PROFILES_VARIABLE

REPOSITORY = Path(__file__).resolve().parent.parent
SIZES = {"640x480": (640, 480), "1280x720": (1280, 720)}
RATE_HZ = 30.0
WARM_UP_FRAMES = 30


class EllipseSegmenter:
    """The ellipse in the box: what GrabCut and friends are measured against, at next to no cost."""

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
            # The prompt is the box with its padding: take that off again, or the target would grow from frame to frame.
            (cx, cy), box = prompt.box.center, prompt.box
            axes = (round(box.width / 2 / 1.3), round(box.height / 2 / 1.3))
            cv2.ellipse(mask, (round(cx), round(cy)), axes, 0, 0, 360, 1, -1)
            predictions.append(Prediction(mask.view(bool), 1.0, 1.0))
        return predictions


def serve() -> None:
    """The node, with the ellipse for a segmenter."""
    from rsvp_ros.ros import node

    node.load_segmenter = lambda config: EllipseSegmenter()
    node.main()


def measure(name: str, size: tuple[int, int], tracking: bool, arguments: argparse.Namespace) -> dict:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    from rsvp_ros.geometry import Box
    from rsvp_ros.msg import TargetArray
    from rsvp_ros.ros.client import Client
    from rsvp_ros.ros.conversions import array_to_image, time_to_ns

    if arguments.segmenter == "ellipse":
        command = [sys.executable, __file__, "--serve"]
    else:
        command = [sys.executable, str(REPOSITORY / "scripts" / "rsvp_node")]
    node = subprocess.Popen(
        [*command, "--ros-args", "-r", "__ns:=/rsvp", "--log-level", "warn"], start_new_session=True
    )
    rclpy.init()
    stop = threading.Event()
    try:
        camera = rclpy.create_node("camera", namespace="rsvp")
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        publisher = camera.create_publisher(Image, "image_raw", best_effort)
        latencies: dict[int, float] = {}

        def take(msg: TargetArray) -> None:
            stamp = time_to_ns(msg.header.stamp)
            latencies[stamp] = (time.time_ns() - stamp - time_to_ns(msg.segmenter_duration)) * 1e-6

        camera.create_subscription(TargetArray, "targets", take, QoSProfile(depth=100))
        executor = SingleThreadedExecutor()
        executor.add_node(camera)
        spinning = threading.Thread(target=executor.spin, daemon=True)
        spinning.start()
        rng = np.random.default_rng(0)
        picture = rng.integers(0, 255, (size[1], size[0], 3), np.uint8)
        stamps: list[int] = []

        def film() -> None:
            due = time.monotonic()
            while not stop.is_set():
                stamp = time.time_ns()
                message = array_to_image(picture, "bgr8", Image().header)
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
                publisher.publish(message)
                stamps.append(stamp)
                due += 1 / RATE_HZ
                time.sleep(max(due - time.monotonic(), 0))

        with Client() as client:
            client.wait_until_active()
            filming = threading.Thread(target=film)
            filming.start()
            if tracking:
                width, height = size
                client.follow(Box(width * 0.4, height * 0.4, width * 0.6, height * 0.6))
        first = len(stamps) + WARM_UP_FRAMES
        while len(stamps) < first:
            time.sleep(0.01)
        cpu, start = cpu_seconds(node.pid), time.monotonic()
        while len(stamps) < first + arguments.frames:
            time.sleep(0.01)
        cpu, seconds = cpu_seconds(node.pid) - cpu, time.monotonic() - start
        stop.set()
        filming.join()
        time.sleep(0.5)  # the last images are on their way
        executor.shutdown()
        measured = stamps[first : first + arguments.frames]
        answered = [latencies[stamp] for stamp in measured if stamp in latencies]
        return {
            "size": name,
            "targets": int(tracking),
            "frames": len(measured),
            "rate_hz": round(arguments.frames / seconds, 1),
            "lost_percent": round(100 * (1 - len(answered) / len(measured)), 2),
            "overhead_median_ms": round(float(np.median(answered)), 2) if answered else None,
            "overhead_p99_ms": round(float(np.percentile(answered, 99)), 2) if answered else None,
            "node_cpu_ms_per_frame": round(cpu / seconds / RATE_HZ * 1e3, 2),
        }
    finally:
        stop.set()
        rclpy.try_shutdown()
        node.send_signal(signal.SIGINT)
        try:
            node.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="measured a row (default: %(default)s)")
    parser.add_argument("--segmenter", choices=("ellipse", "embedded"), default="ellipse")
    parser.add_argument("--no-profile", action="store_true", help="leave Fast DDS and malloc at their defaults")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
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
