"""What the parts of the system pass to each other. numpy only; images are uint8 H x W x 3 RGB, masks bool H x W."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rsvp_ros.geometry import Box


class Frame:
    """One camera image, decoded when it is first accessed."""

    def __init__(self, image: np.ndarray | Callable[[], np.ndarray], stamp_ns: int, header: object = None) -> None:
        """
        Args:
            image: uint8 H x W x 3 RGB, or a function that decodes it and raises InvalidImageError if it cannot.
            stamp_ns: time of exposure, nanoseconds: the image's own stamp, where that can be trusted.
            header: whatever the source wants to see again with the result (for the node, a std_msgs/Header).
        """
        self._image = image
        self.stamp_ns = stamp_ns
        self.header = header

    @property
    def image(self) -> np.ndarray:
        """uint8 H x W x 3 RGB. Raises InvalidImageError if the source's data cannot be decoded."""
        image = self._image  # read once: another thread may decode it, too
        if not isinstance(image, np.ndarray):
            self._image = image = image()
        return image


@dataclass(frozen=True)
class RegionProposal:
    """Stage 1's answer for one target: where to look, and what for (RSVP, sec. 3.2)."""

    box: Box
    """The region in pixels of the reasoned image, padded and clipped to it."""
    name: str
    """What the target is called, a noun ("scissors")."""
    attributes: tuple[str, ...] = ()
    """What distinguishes it from others ("orange handle", "left of the mug")."""
    rows: tuple[int, ...] = ()
    """IDs of the horizontal bands it spans, from 1 at the top; empty where the model gave none."""
    columns: tuple[int, ...] = ()
    """IDs of the vertical bands it spans, from 1 at the left; empty where the model gave none."""
    score: float = 1.0
    """0 to 1: how well the model's bands and box agree; 1 where it gave only one of them."""
    reason: str = ""
    """Why this one, in the language of the instruction."""

    @property
    def description(self) -> str:
        """What the VLSM reads: the name and the attributes."""
        return ", ".join((self.name, *self.attributes)) if self.name else ", ".join(self.attributes)


@dataclass(frozen=True)
class ReasoningStep:
    """One step of the multi-modal chain of thought."""

    name: str
    """What the step is about: "target", "scene", "presence", "region", "reason", or a model's own "thought"."""
    text: str


@dataclass(frozen=True)
class Reasoning:
    """All that stage 1 thought and found. No proposals: the target is not in the image."""

    instruction: str
    proposals: tuple[RegionProposal, ...] = ()
    steps: tuple[ReasoningStep, ...] = ()
    raw_text: str = ""
    """Everything the MLLM wrote, verbatim, the turns joined by a line of dashes."""
    model: str = ""
    duration_s: float = 0.0
    """Until its last word, counted from the image, or from the request if one was made."""
    prompt_tokens: int = 0
    """0 if the backend does not report it."""
    completion_tokens: int = 0

    @property
    def found(self) -> bool:
        return bool(self.proposals)


@dataclass(frozen=True)
class Prompt:
    """Stage 2's input for one target."""

    box: Box
    """Region prior: the box or the loose region in which the target is, pixels of the encoded image."""
    description: str = ""
    """What to look for in it; empty: whatever the box shows."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Stage 2's answer for one prompt."""

    mask: np.ndarray
    """bool H x W, the size of the encoded image."""
    score: float
    """The model's estimate of the mask's quality (SAM's `iou_predictions`), 0 to 1."""
    presence: float = 1.0
    """Is what the description names in this region? 0 to 1; 1 where the segmenter cannot tell."""


class TargetState(enum.IntEnum):
    """The same numbers as the constants in msg/Target.msg."""

    TRACKING = 1
    """Seen in this frame."""
    OCCLUDED = 2
    """Not seen in this frame; the box is predicted."""
    LOST = 3
    """Not seen for too long; it may be found again, or ask again."""


@dataclass(frozen=True, eq=False)
class Target:
    """What is known about one target in one frame."""

    id: int
    """1 to 65535, unique while the node lives (until they wrap): the target's value in the label image."""
    name: str
    description: str
    state: TargetState
    box: Box
    """Tight around the mask; predicted where the target is occluded or lost."""
    mask: np.ndarray | None
    """bool H x W; None unless the state is TRACKING."""
    score: float
    presence: float
    instruction: str = ""
    age_ns: int = 0
    """Time since the target was found, by the images' stamps."""


@dataclass(frozen=True, eq=False)
class TargetsInFrame:
    """All targets in one frame: what the streaming system outputs for every image."""

    frame: Frame
    targets: tuple[Target, ...] = field(default_factory=tuple)
    segment_s: float = 0.0
    """Time spent in the segmenter for this frame, seconds."""
