"""The frames since the one that is being reasoned about: a bounded number of them, evenly spread in time."""

from __future__ import annotations

from rsvp_ros.types import Frame

HISTORY_FRAMES = 32  # kept at most …
HISTORY_BYTES = 256_000_000  # … and fewer, where they are large …
LEAST_FRAMES = 8  # … but at least so many


class FrameHistory:
    """Keeps every n-th frame added, and the newest. Whenever there are too many, n doubles."""

    def __init__(self) -> None:
        self._most = HISTORY_FRAMES
        self._clear()

    def limit(self, frame_bytes: int) -> None:
        """Keep fewer if a frame takes so much memory that HISTORY_FRAMES of them would take more than HISTORY_BYTES."""
        self._most = min(max(HISTORY_BYTES // max(frame_bytes, 1), LEAST_FRAMES), HISTORY_FRAMES)

    def add(self, frame: Frame) -> None:
        self._newest = frame
        self._added += 1
        if self._added % self._stride == 0:
            self._kept.append(frame)
            if len(self._kept) > self._most:
                self._kept = self._kept[1::2]
                self._stride *= 2

    def take(self, count: int) -> list[Frame]:
        """Return at most `count` frames, evenly spread and including the newest, and start over."""
        frames = self._kept if self._added % self._stride == 0 else [*self._kept, self._newest]
        count = min(count, len(frames))
        self._clear()
        return [frames[(i + 1) * len(frames) // count - 1] for i in range(count)]

    def _clear(self) -> None:
        self._kept: list[Frame] = []
        self._newest: Frame | None = None
        self._added = 0
        self._stride = 1
