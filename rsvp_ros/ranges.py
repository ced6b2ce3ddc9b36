"""Ranges of a configuration's numbers."""

from __future__ import annotations

from rsvp_ros.errors import ConfigurationError


def check_ranges(config: object, **ranges: tuple[float, float]) -> None:
    """Raises ConfigurationError naming the first field that is not within its range, both ends included."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:  # so NaN is refused, too
            raise ConfigurationError(f"{name} is {value}; use {low} to {high}")
