"""The log of a training, one JSON object per line, and a plot of it."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

from rsvp_ros.files import write_whole


class TrainingLog:
    """Records, each with a "step", appended to a file. Raises OSError if it cannot be written."""

    def __init__(self, path: Path, step: int) -> None:
        """`step`: where the training starts or resumes; what an interrupted one logged after it is dropped."""
        self.path = path
        kept = [record for record in read_log(path) if record["step"] <= step]
        write_whole(path, "".join(map(_line, kept)).encode())

    def add(self, record: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(record))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, empty if there is no file; lines that are not records (cut off by a kill) are skipped."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def draw_curve(log: Path, out: Path) -> None:
    """Plot losses and held-out figures over the steps; needs matplotlib and does nothing without it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    records = read_log(log)
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [r for r in records if "total" in r]
    # All records count: a training that begins with the vision tower has other losses at first
    for name in sorted({name for r in losses for name in r} - {"step", "seconds"}):
        left.plot([r["step"] for r in losses], [r.get(name, math.nan) for r in losses], label=name)
    left.set(xlabel="step", ylabel="loss", yscale="log")
    checks = [r for r in records if "validation" in r]
    for name in sorted({name for r in checks for name in r["validation"]}):
        right.plot([r["step"] for r in checks], [r["validation"].get(name, math.nan) for r in checks], label=name)
    right.set(xlabel="step", ylabel="held-out mean IoU, or share right", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=90, format="png")
    write_whole(out, picture.getvalue())
