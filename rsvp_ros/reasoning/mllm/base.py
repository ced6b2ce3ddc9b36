"""The contract of a multimodal LLM: messages in, text out, streamed, and stopped when asked. It knows nothing of
segmentation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[np.ndarray, ...] = ()
    """uint8 H x W x 3 RGB; they stand before the text."""


@dataclass(frozen=True)
class Generation:
    """A whole answer."""

    text: str
    prompt_tokens: int = 0
    """0 where the backend does not tell."""
    completion_tokens: int = 0
    image_size: tuple[int, int] | None = None
    """(width, height) in pixels of the last image as the model saw it, if the backend knows: the absolute coordinates
    of the Qwen2.5-VL family are in these pixels."""
    cut: bool = False
    """Whether it ended because it reached the token limit, not because it was complete."""


class Mllm(Protocol):
    """A model that reads images and text and writes text."""

    name: str
    """For the log and for Reasoning messages; it also tells the family, and so the coordinate convention."""

    def prepare(self, cancel: threading.Event | None = None) -> None:
        """Learn what a prompt depends on but only the model's server may know: the model's name. `cancel` and errors
        are as in `generate`."""

    def generate(
        self,
        messages: Sequence[Message],
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Answer a conversation.

        `on_text` gets each new piece of text as it comes, in the calling thread. When `cancel` is set, the call ends
        within 200 ms (a local model: within one token) with CancelledError. Raises ServerUnavailableError,
        ServerTimeoutError, ModelRunError.
        """

    def close(self) -> None:
        """Free the model; `generate` may not be called after it."""
