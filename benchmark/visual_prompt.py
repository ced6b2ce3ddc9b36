"""How much of the image the visual prompt hides, and what drawing it costs: the table in docs/mcot.md.

    OMP_NUM_THREADS=1 python benchmark/visual_prompt.py

"Hidden" is the mean opacity over all pixels; "drawing" is the best of several times, with the overlay already made.
"""

from __future__ import annotations

import time

import numpy as np

from rsvp_ros.reasoning.visual_prompt import VisualPrompt

SIZES = ((320, 240), (640, 480), (1280, 720), (3840, 2160))
PROMPTS = {
    "5 x 5": VisualPrompt("bands", 5, 5),
    "9 x 9": VisualPrompt("bands", 9, 9),
    "13 x 13": VisualPrompt("bands", 13, 13),
    "marks 9 x 9": VisualPrompt("marks", 9, 9),
}
REPEATS = 7


def drawing_ms(prompt: VisualPrompt, image: np.ndarray) -> float:
    """Best time of one drawing, milliseconds."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        prompt.draw(image)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def main() -> None:
    print(f"| image | {' | '.join(PROMPTS)} | drawing 9 x 9 |")
    print("|---" * (len(PROMPTS) + 2) + "|")
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        hidden = [f"{prompt.opacity(width, height).mean():.1%}" for prompt in PROMPTS.values()]
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        print(f"| {width} x {height} | {' | '.join(hidden)} | {drawing_ms(PROMPTS['9 x 9'], image):.1f} ms |")


if __name__ == "__main__":
    main()
