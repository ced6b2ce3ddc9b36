"""What a real camera does to an image, in mild form. numpy and OpenCV only."""

from __future__ import annotations

import cv2
import numpy as np

from rsvp_ros.tabletop.scenes import SensorSpec


def _motion_kernel(motion: tuple[float, float], width: int) -> np.ndarray:
    way = np.array(motion) * width / 1000
    side = 2 * int(np.ceil(np.abs(way).max())) + 1
    kernel = np.zeros((side, side), np.float32)
    middle = side // 2
    start, end = (middle - way / 2), (middle + way / 2)
    cv2.line(kernel, np.round(start).astype(int).tolist(), np.round(end).astype(int).tolist(), 1.0)
    return kernel / kernel.sum()


def expose(image: np.ndarray, spec: SensorSpec, rng: np.random.Generator) -> np.ndarray:
    """A perfect image as this sensor would give it; both uint8 H x W x 3 RGB."""
    height, width = image.shape[:2]
    seen = image.astype(np.float32)
    sigma = spec.defocus * width / 1000
    if sigma > 0.2:
        seen = cv2.GaussianBlur(seen, (0, 0), sigma)
    if any(spec.motion):
        seen = cv2.filter2D(seen, -1, _motion_kernel(spec.motion, width))
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    seen *= ((1 - spec.vignetting * (x * x + y * y) / 2) * spec.exposure)[..., None]
    seen *= np.array(spec.white_balance, np.float32)
    # Photon noise: bright pixels vary more, but less in proportion to their brightness
    deviation = spec.noise * np.sqrt(np.clip(seen, 0, 255) / 128 + 0.1)
    seen += rng.standard_normal(seen.shape, dtype=np.float32) * deviation
    pixels = np.clip(seen + 0.5, 0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, spec.quality])
    return np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1])
