"""The video and the pictures that the demo leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from rsvp_ros.ros.demo.asking import Answer
from rsvp_ros.ros.demo.camera import Camera, Film
from rsvp_ros.ros.demo.process import DemoError
from rsvp_ros.types import TargetState
from rsvp_ros.visualization import PAPER, draw_text_bar, reasoning_panel, target_color

WIDTH = 640
"""Narrower pictures are enlarged to at least this width if text goes beside or under them."""
BAR_HEIGHT = 36


def enlarged(image: np.ndarray) -> np.ndarray:
    """The image, enlarged if text would not fit under it."""
    times = -(-WIDTH // image.shape[1])
    return cv2.resize(image, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC) if times > 1 else image


def captioned(number: int, camera: Camera, film: Film, answers: Sequence[Answer]) -> np.ndarray:
    """The node's overlay of a picture, above a line with its time and how each target fares; uint8 RGB."""
    picture = camera.overlays.get(number)
    parts = [(f"{film.time_s(number):.1f} s", PAPER)]
    message = camera.targets.get(number)
    if picture is None or message is None:
        picture = film.shots[number].image
        parts.append(("no answer to this picture", PAPER))
    else:
        for target in message.targets:
            answer = next((answer for answer in answers if target.id in answer.targets), None)
            text = target.instruction or target.class_name
            if target.state != TargetState.TRACKING:
                text += f": {TargetState(target.state).name.lower()}"
            elif answer is not None and number in answer.ious:
                text += f": IoU {answer.ious[number]:.2f}"
            parts.append((text, target_color(target.id)))
    picture = enlarged(picture)
    return np.concatenate((picture, draw_text_bar(parts, picture.shape[1], BAR_HEIGHT)))


def write_video(path: Path, camera: Camera, film: Film, answers: Sequence[Answer]) -> None:
    """Write all pictures at the film's rate. Raises DemoError."""
    height, width = captioned(0, camera, film, answers).shape[:2]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), film.rate_hz, (width, height))
    if not video.isOpened():
        raise DemoError(f"OpenCV cannot write {path}: is the folder writable, and does its build have the codec mp4v?")
    for number in range(len(film)):
        video.write(captioned(number, camera, film, answers)[..., ::-1])
    video.release()


def write_page(path: Path, camera: Camera, film: Film, answer: Answer) -> None:
    """Write the first picture with what was found, beside the reasoning and above the verdict. Raises DemoError."""
    number = next_overlay(answer.number, camera, answer.targets)
    picture = enlarged(camera.overlays[number])
    panel = reasoning_panel(answer.reasoning, picture.shape[0], complete=not answer.failure, ids=sorted(answer.targets))
    page = np.concatenate((picture, panel), 1)
    parts = [(f"{film.time_s(number):.1f} s", PAPER), (answer.verdict(film), PAPER)]
    write_picture(path, np.concatenate((page, draw_text_bar(parts, page.shape[1], BAR_HEIGHT))))


def write_sheet(path: Path, camera: Camera, film: Film, answers: Sequence[Answer]) -> None:
    """Write six moments in order: after each answer, when a followed thing is seen least, later, and at the end.

    Raises DemoError.
    """
    last = len(film) - 1

    def seen(number: int) -> float:
        """How much is seen of the followed thing that is seen least: in tenths."""
        followed = (answer.meant for answer in answers if answer.right and answer.number < number)
        return round(min((film.shots[number].seen(thing) for thing in followed), default=1.0), 1)

    # If nothing is hidden: midway between the last answer and the end.
    middle = (answers[-1].number + last) // 2
    moments = range(answers[0].number, last) or [last]  # the first answer may come as late as the clip's end
    hidden_at = min(moments, key=lambda number: (seen(number), abs(number - middle)))
    numbers = [next_overlay(answer.number, camera, answer.targets) for answer in answers]
    numbers += [next_overlay(number, camera) for number in (hidden_at, (max(hidden_at, middle) + last) // 2, last)]
    tiles = [captioned(number, camera, film, answers) for number in sorted(numbers)]
    gap = 8
    tiles = [cv2.copyMakeBorder(tile, gap, 0, gap, 0, cv2.BORDER_CONSTANT, value=PAPER) for tile in tiles]
    sheet = np.concatenate([np.concatenate(tiles[:3], 1), np.concatenate(tiles[3:], 1)])
    sheet = cv2.copyMakeBorder(sheet, 0, gap, 0, gap, cv2.BORDER_CONSTANT, value=PAPER)
    write_picture(path, sheet)


def next_overlay(number: int, camera: Camera, targets: frozenset[int] = frozenset()) -> int:
    """The first picture from this one on that has an overlay with these targets; else the last with an overlay."""
    answered = sorted(camera.overlays.keys() & camera.targets.keys())
    fitting = (n for n in answered if n >= number and targets <= {target.id for target in camera.targets[n].targets})
    return next(fitting, answered[-1])


def write_picture(path: Path, image: np.ndarray) -> None:
    """Raises DemoError."""
    if not cv2.imwrite(str(path), image[..., ::-1]):
        raise DemoError(f"{path} cannot be written: is the folder writable?")
