"""Which frames are kept while the MLLM thinks."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rsvp_ros.frame_history import HISTORY_FRAMES, LEAST_FRAMES, FrameHistory
from rsvp_ros.types import Frame

COUNTS = st.integers(1, HISTORY_FRAMES + 1)


def taken(history: FrameHistory, frames: int, count: int) -> list[int]:
    """The numbers, from 1, of those taken of so many frames."""
    for i in range(1, frames + 1):
        history.add(Frame(lambda: None, i))
    return [frame.stamp_ns for frame in history.take(count)]


@given(st.integers(1, 5000), COUNTS, st.integers(1, 200))
def test_few_frames_are_kept_evenly_and_up_to_the_newest(frames, count, later):
    history = FrameHistory()
    for added in (frames, later):  # taken, it begins anew
        kept = [0, *taken(history, added, count)]
        assert kept[-1] == added
        assert len(kept) <= 1 + count
        gaps = [b - a for a, b in pairwise(kept)]
        assert min(gaps) >= 1
        assert max(gaps) <= max(1, 2 * added / count)


def test_of_large_images_fewer_are_kept():
    for frame_bytes, most in ((0, HISTORY_FRAMES), (921_600, HISTORY_FRAMES), (25_000_000, 10), (10**9, LEAST_FRAMES)):
        history = FrameHistory()
        history.limit(frame_bytes)
        for i in range(1, 500):
            history.add(Frame(lambda: None, i))
            assert len(history._kept) <= most
        assert len(history.take(100)) > most // 2


def test_none_and_all():
    assert FrameHistory().take(5) == []
    assert taken(FrameHistory(), HISTORY_FRAMES, 100) == list(range(1, HISTORY_FRAMES + 1))
    assert taken(FrameHistory(), 10, 0) == []
