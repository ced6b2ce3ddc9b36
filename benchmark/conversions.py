"""Cost per frame of converting between ROS and the package: python benchmark/conversions.py [--repeat 7]

Milliseconds, the best of some repetitions, with one OpenCV thread; in brackets the ratio to one plain copy of the same
frame's rgb8 pixels, for comparing machines. Needs the built messages; compares with cv_bridge if that is installed.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from rsvp_ros import surface
from rsvp_ros.geometry import mask_to_box
from rsvp_ros.ros import conversions, depth
from rsvp_ros.types import Frame, Target, TargetsInFrame, TargetState
from rsvp_ros.visualization import draw_targets

SIZES = {"VGA": (480, 640), "720p": (720, 1280), "1080p": (1080, 1920)}
INPUTS = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "yuv422_yuy2": (np.uint8, 2),
    "bayer_rggb8": (np.uint8, 1),
    "mono16": (np.uint16, 1),
}
TARGETS = (1, 5, 20)
HEADER = Header(frame_id="camera")


def message(pixels: np.ndarray, encoding: str) -> Image:
    height, width = pixels.shape[:2]
    msg = Image(header=HEADER, height=height, width=width, encoding=encoding, step=pixels.nbytes // height)
    msg.data.frombytes(pixels.tobytes())
    return msg


def scene(height: int, width: int, count: int, rng: np.random.Generator) -> TargetsInFrame:
    """`count` discs a quarter of the image high, at random places."""
    targets = []
    for i in range(count):
        mask = np.zeros((height, width), np.uint8)
        center = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(mask, center, height // 8, 1, -1)
        mask = mask.view(bool)
        targets.append(Target(i + 1, "mug", "mug", TargetState.TRACKING, mask_to_box(mask), mask, 0.9, 0.9))
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return TargetsInFrame(Frame(image, 0), tuple(targets))


def cases(height: int, width: int, rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    try:
        from cv_bridge import CvBridge

        bridge = CvBridge()
    except ImportError:
        bridge = None
    result: dict[str, Callable[[], object]] = {}
    for encoding, (dtype, channels) in INPUTS.items():
        shape = (height, width) if channels == 1 else (height, width, channels)
        msg = message(rng.integers(0, np.iinfo(dtype).max, shape, dtype), encoding)
        result[f"image_to_array {encoding}"] = lambda msg=msg: conversions.image_to_array(msg)
        if bridge:
            result[f"  cv_bridge {encoding}"] = lambda msg=msg: bridge.imgmsg_to_cv2(msg, "rgb8")
    meters = rng.uniform(0.5, 3, (height, width)).astype(np.float32)
    for pixels, encoding in ((meters, "32FC1"), ((meters * 1000).astype(np.uint16), "16UC1")):
        msg = message(pixels, encoding)
        result[f"depth_to_array {encoding}"] = lambda msg=msg: conversions.depth_to_array(msg)
    camera = surface.CameraModel(width, width, width / 2, height / 2, width, height)
    smooth = cv2.GaussianBlur(meters, (0, 0), 9)
    for count in TARGETS:
        frame = scene(height, width, count, rng)
        image, targets = frame.frame.image, frame.targets
        result[f"targets_to_msg, {count} targets"] = lambda f=frame: conversions.targets_to_msg(f, HEADER)
        result[f"label_image to message, {count} targets"] = lambda t=targets: conversions.array_to_image(
            conversions.label_image(t, height, width), "mono16", HEADER
        )
        result[f"draw_targets, {count} targets"] = lambda i=image, t=targets: draw_targets(i, t)
        result[f"positions and cloud, {count} targets"] = lambda t=targets: _in_space(t, smooth, camera)
    result["array_to_image rgb8"] = lambda: conversions.array_to_image(image, "rgb8", HEADER)
    return result


def _in_space(targets: Sequence[Target], metres: np.ndarray, camera: surface.CameraModel) -> object:
    surfaces = {target.id: surface.target_points(target.mask, metres, camera, target.box) for target in targets}
    positions = [surface.target_position(points) for points in surfaces.values()]
    return positions, depth.points_to_cloud(surfaces, HEADER)


def best_ms(function: Callable[[], object], repeat: int) -> float:
    function()
    number = max(1, int(0.02 / max(timeit.timeit(function, number=1), 1e-6)))
    return min(timeit.repeat(function, number=number, repeat=repeat)) / number * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    repeat = parser.parse_args().repeat
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    table: dict[str, list[str]] = {}
    for height, width in SIZES.values():
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        unit = best_ms(pixels.copy, repeat)
        table.setdefault("one copy of the rgb8 pixels", []).append(f"{unit:8.3f} ( 1.0)")
        for name, function in cases(height, width, rng).items():
            ms = best_ms(function, repeat)
            table.setdefault(name, []).append(f"{ms:8.3f} ({ms / unit:4.1f})")
    print(f"{'ms (ratio to a copy)':36s}" + "".join(f"{name:>18s}" for name in SIZES))
    for name, cells in table.items():
        print(f"{name:36s}" + "".join(f"{cell:>18s}" for cell in cells))


if __name__ == "__main__":
    main()
