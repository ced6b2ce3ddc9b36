"""Checkpoints: the newest one and the one before it, so that a kill or a full disk leaves one intact."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.files import write_whole

_log = logging.getLogger(__name__)


class Checkpoints:
    """Two files in a folder: `checkpoint.pt` and `checkpoint_previous.pt`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.newest = folder / "checkpoint.pt"
        self.previous = folder / "checkpoint_previous.pt"
        self._is_newest_usable = True

    @property
    def last(self) -> Path | None:
        """The checkpoint that training resumes from; None if there is none yet."""
        paths = (self.newest, self.previous) if self._is_newest_usable else (self.previous,)
        return next((path for path in paths if path.exists()), None)

    def write(self, state: dict[str, Any]) -> None:
        """Add a checkpoint. It replaces the older of the two, or the newest if `restore` could not use that one.

        Raises OSError; both files are then unchanged.
        """
        content = io.BytesIO()  # torch's own file writer does not report a full disk
        torch.save(state, content)
        aside = self.folder / "checkpoint_next.pt"
        write_whole(aside, content.getbuffer())
        if self.newest.exists() and self._is_newest_usable:
            os.replace(self.newest, self.previous)
        os.replace(aside, self.newest)
        self._is_newest_usable = True

    def restore(self, accept: Callable[[dict[str, Any]], None]) -> Path | None:
        """Pass the newest checkpoint to `accept` or, if that raises any exception, the one before it.

        Returns the accepted one, or None if there are no checkpoints. Raises ConfigurationError if there are some but
        none was accepted: starting from scratch would overwrite them.
        """
        reasons = []
        for path in (self.newest, self.previous):
            if not path.exists():
                continue
            try:
                accept(torch.load(path, map_location="cpu", weights_only=True))
            except Exception as error:  # a damaged file can make torch.load raise almost anything
                foreign = isinstance(error, KeyError)
                reason = f"it lacks {error}, as that of another kind of training would" if foreign else error
                _log.warning("checkpoint %s cannot be used: %s", path, reason)
                reasons.append(f"{path}: {reason}")
                continue
            self._is_newest_usable = path == self.newest
            return path
        if reasons:
            raise ConfigurationError(
                f"training cannot go on from the checkpoints in {self.folder}: choose another `out`, or delete them"
                f" ({'; '.join(reasons)})"
            )
        return None
