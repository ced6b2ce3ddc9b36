"""Time that the VLSM takes per frame: with one target, and for each further target.

    python benchmark/vlsm_latency.py [--weights embedded] [--device cpu] [--threads 2] [--frames 60]

For each dtype, image size and target size (sides of an eighth or a third of the image's longer side: small targets are
looked at in crops, large ones in the whole image): median wall time in milliseconds (in brackets CPU time, which other
processes affect less) from the image to the masks of 1, 2 and 5 targets, frames per second with one target, and what
each further target adds to a frame. Also how much the masks in bfloat16 differ from those in float32 on drawn scenes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch

from rsvp_ros.evaluation.segmentation import held_out_scenes
from rsvp_ros.geometry import Box, mask_iou
from rsvp_ros.segmentation.loading import SegmenterConfig, load_segmenter
from rsvp_ros.segmentation.segmenter import Segmenter
from rsvp_ros.types import Prompt

SIZES = ((240, 320), (480, 640), (720, 1280), (1080, 1920))
SHARES = {"small": 1 / 8, "large": 1 / 3}
"""Sides of targets, as shares of the image's longer side."""
COLORS = {
    "red": (200, 30, 30), "green": (30, 150, 50), "blue": (30, 60, 200), "yellow": (230, 210, 40),
    "black": (20, 20, 20),
}  # fmt: skip


def measure(call: Callable[[], object], repeats: int, device: torch.device) -> tuple[float, float]:
    """Median wall and CPU milliseconds."""
    wall, cpu = [], []
    for i in range(repeats + 3):
        start = time.perf_counter(), time.process_time()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i >= 3:  # skip the first calls, which choose kernels
            wall.append((time.perf_counter() - start[0]) * 1e3)
            cpu.append((time.process_time() - start[1]) * 1e3)
    return statistics.median(wall), statistics.median(cpu)


def targets(height: int, width: int, count: int, share: float) -> list[Prompt]:
    """Square boxes in a row, with descriptions."""
    side = max(height, width) * share
    step = (width - side) / max(1, count - 1)
    boxes = [Box.from_xywh(i * step, (height - side) / 2, side, side) for i in range(count)]
    return [Prompt(box, f"ball, {color}") for box, color in zip(boxes, COLORS, strict=False)]


def picture(height: int, width: int, prompts: list[Prompt]) -> np.ndarray:
    """RGB: balls in the prompts' boxes, as absent targets are looked at twice and take longer."""
    image = np.random.default_rng(0).integers(90, 160, (height, width, 3), dtype=np.uint8)
    for prompt, color in zip(prompts, COLORS.values(), strict=False):
        x, y = prompt.box.center
        cv2.circle(image, (int(x), int(y)), int(prompt.box.width / 2), color, -1)
    return cv2.GaussianBlur(image, (0, 0), 1)


def _frame(segmenter: Segmenter, image: np.ndarray, prompts: list[Prompt]) -> None:
    segmenter.segment(segmenter.encode(image), prompts)


def agreement(one: Segmenter, other: Segmenter) -> tuple[float, float, float]:
    """Mean IoU of each segmenter with the truth, and of the two with each other."""
    rows = []
    for scene, samples in held_out_scenes(17, 40):
        samples = [s for _, s in samples if s.targets]
        prompts = [Prompt(s.box, s.text) for s in samples]
        found = [segmenter.segment(segmenter.encode(scene.image), prompts) for segmenter in (one, other)]
        for sample, a, b in zip(samples, *found, strict=True):
            truth = np.isin(scene.ids, sample.targets)
            rows.append((mask_iou(a.mask, truth), mask_iou(b.mask, truth), mask_iou(a.mask, b.mask)))
    return tuple(np.mean(rows, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="embedded")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile the image encoder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)

    segmenters = {}
    for dtype in ("float32", "bfloat16"):
        config = SegmenterConfig(model=options.weights, device=options.device, dtype=dtype, compile=options.compile)
        segmenters[dtype] = load_segmenter(config)
    print(
        f"torch {torch.__version__}, {segmenters['float32'].device}, {options.threads} thread(s); wall (CPU) ms, median"
    )
    print("| dtype | image | targets | 1 target | 2 targets | 5 targets | frames/s | further target |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype, segmenter in segmenters.items():
        for height, width in SIZES:
            for name, share in SHARES.items():
                times = []
                for count in (1, 2, 5):
                    prompts = targets(height, width, count, share)
                    frame = partial(_frame, segmenter, picture(height, width, prompts), prompts)
                    times.append(measure(frame, options.frames, segmenter.device))
                one, _, five = (wall for wall, _ in times)
                cells = [f"{wall:.1f} ({cpu:.1f})" for wall, cpu in times]
                cells += [f"{1e3 / one:.0f}", f"{(five - one) / 4 / one:.0%}"]
                print(f"| {dtype} | {width}x{height} | {name} | " + " | ".join(cells) + " |", flush=True)
    full, half, mutual = agreement(segmenters["float32"], segmenters["bfloat16"])
    print(f"mean IoU on drawn scenes: float32 {full:.4f}, bfloat16 {half:.4f}, one with the other {mutual:.4f}")


if __name__ == "__main__":
    main()
