"""Reasoning without an MLLM: the segmenter is told to look for the instruction itself, in the whole image."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from rsvp_ros.geometry import Box
from rsvp_ros.reasoning.reasoner import ReasonerConfig, Steps, check_image, check_instruction
from rsvp_ros.types import Reasoning, ReasoningStep, RegionProposal

EXPLANATION = (
    "No MLLM is configured: nothing is reasoned about, the words are taken literally, as the description of what to "
    "look for in the whole image."
)


class LiteralReasoner:
    """Stands in for `Reasoner` where no MLLM is configured (the paper's single-stage ablation).

    For segmenters that read text. They can find "the red mug", but not "something to drink from", and "all the fruit"
    gives only one target. The segmenter alone decides whether the target is in the image.
    """

    def __init__(self, max_instruction_chars: int = ReasonerConfig.max_instruction_chars) -> None:
        self.max_instruction_chars = max_instruction_chars

    def reason(
        self,
        image: np.ndarray,
        instruction: str,
        on_steps: Callable[[Steps, str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Reasoning:
        """One proposal: the whole image, described by the instruction. See `Reasoner.reason`.

        Raises InvalidImageError, InvalidInstructionError.
        """
        started = time.monotonic()
        check_image(image)
        instruction = check_instruction(instruction, self.max_instruction_chars)
        height, width = image.shape[:2]
        steps = (ReasoningStep("target", EXPLANATION),)
        if on_steps:
            on_steps(steps, "")
        proposal = RegionProposal(Box(0, 0, width, height), instruction)
        return Reasoning(instruction, (proposal,), steps, duration_s=time.monotonic() - started)
