"""How far a long command is: what stands on stderr, with a clock that the test sets."""

from __future__ import annotations

import io

import pytest

from rsvp_ros import progress
from rsvp_ros.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def steps_with_a_clock(monkeypatch, shown: Progress, seconds: float, steps: int) -> None:
    """Steps 10 to 10 + `steps` of 1000, each of which takes this long."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for step in range(10, 11 + steps):
        shown.update(step, 1000, "loss 2")
        now[0] += seconds


def test_a_line_every_half_minute_where_it_goes_to_a_file(monkeypatch):
    stream = io.StringIO()
    with Progress("step", stream) as shown:
        steps_with_a_clock(monkeypatch, shown, 2.0, 40)
        assert stream.getvalue().splitlines() == [
            "step 10 of 1000, loss 2",
            "step 25 of 1000, loss 2, 0.5/s, 32 min left",
            "step 40 of 1000, loss 2, 0.5/s, 32 min left",
        ]
        shown.update(1000, 1000)
    assert stream.getvalue().splitlines()[-1] == "step 1000 of 1000, 12.1/s, 0 s left"


def test_one_line_on_a_terminal(monkeypatch):
    stream = Terminal()
    with Progress("step", stream) as shown:
        steps_with_a_clock(monkeypatch, shown, 0.125, 20)
        assert stream.getvalue().count("step ") == 11, "not more often than one can see"
        assert "\n" not in stream.getvalue()
        shown.say("held-out")
    assert stream.getvalue().endswith("\r\x1b[2Kheld-out\n\n")


def test_nothing_done_says_nothing():
    with Progress("step", stream := Terminal()):
        pass
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (7500, "2 h 05 min")])
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
