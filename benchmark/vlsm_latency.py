"""Time of the VLSM for each frame: encode, one target, five targets, five small targets (crops).

    OMP_NUM_THREADS=1 python benchmark/vlsm_latency.py [--weights embedded] [--device cpu] [--frames 30]

Median wall and CPU milliseconds (CPU time does not suffer from other processes), for each dtype and image size; and how
much the masks in bfloat16 differ from those in float32 on drawn scenes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from rsvp_ros.evaluation.segmentation import held_out_scenes
from rsvp_ros.geometry import Box, mask_iou
from rsvp_ros.segmentation.vlsm_segmenter import VlsmSegmenter
from rsvp_ros.types import Prompt

SIZES = ((240, 320), (480, 640), (720, 1280), (1080, 1920))


def measure(call: Callable[[], object], repeats: int, device: torch.device) -> str:
    """Median wall and CPU milliseconds."""
    wall, cpu = [], []
    for i in range(repeats + 3):
        start = time.perf_counter(), time.process_time()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i >= 3:  # the first calls choose kernels
            wall.append((time.perf_counter() - start[0]) * 1e3)
            cpu.append((time.process_time() - start[1]) * 1e3)
    return f"{statistics.median(wall):6.1f} ({statistics.median(cpu):5.1f})"


def boxes(height: int, width: int, count: int, share: float) -> list[Prompt]:
    """Boxes with sides of this share of the image's longer side, in a row."""
    side = share * max(height, width)
    step = (width - side) / max(1, count - 1)
    return [Prompt(Box.from_xywh(i * step, (height - side) / 2, side, side), f"thing {i}") for i in range(count)]


def agreement(one: VlsmSegmenter, other: VlsmSegmenter) -> tuple[float, float, float]:
    """Mean IoU with the truth of each, and of the two with each other."""
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
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)

    segmenters = {d: VlsmSegmenter.from_pretrained(options.weights, options.device, d) for d in ("float32", "bfloat16")}
    print(
        f"torch {torch.__version__}, {segmenters['float32'].device}, {options.threads} thread(s); wall (CPU) ms, median"
    )
    print("| dtype | image | encode | 1 target | 5 targets | 5 small targets |\n|---|---|---|---|---|---|")
    for dtype, segmenter in segmenters.items():
        for height, width in SIZES:
            image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
            image = cv2.GaussianBlur(image, (0, 0), 3)
            features = segmenter.encode(image)
            cells = [measure(lambda s=segmenter, i=image: s.encode(i), options.frames, segmenter.device)]
            for count, share in ((1, 0.3), (5, 0.3), (5, 0.1)):
                prompts = boxes(height, width, count, share)
                cells.append(
                    measure(
                        lambda s=segmenter, f=features, p=prompts: s.segment(f, p), options.frames, segmenter.device
                    )
                )
            print(f"| {dtype} | {width}x{height} | " + " | ".join(cells) + " |", flush=True)
    full, half, mutual = agreement(segmenters["float32"], segmenters["bfloat16"])
    print(f"mean IoU on drawn scenes: float32 {full:.4f}, bfloat16 {half:.4f}, one with the other {mutual:.4f}")


if __name__ == "__main__":
    main()
