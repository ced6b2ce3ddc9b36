"""The whole configuration as one tree of dataclasses, and the YAML files that hold it (ROS 2 parameter files)."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.perception import PerceptionConfig
from rsvp_ros.reasoning.mllm.model_folder import EMBEDDED_PROMPTS
from rsvp_ros.reasoning.mllm.openai_mllm import OpenAiConfig
from rsvp_ros.reasoning.mllm.transformers_mllm import TransformersConfig
from rsvp_ros.reasoning.reasoner import ReasonerConfig
from rsvp_ros.segmentation.loading import SegmenterConfig
from rsvp_ros.tracking.tracker import TrackerConfig


@dataclass(frozen=True)
class CameraConfig:
    """Which images the node takes, and how."""

    image_transport: str = "raw"
    """"raw" or "compressed"."""
    reliability: str = "best_effort"
    """"best_effort" or "reliable"."""
    use_3d: bool = False
    """Also take depth images."""

    def __post_init__(self) -> None:
        _check_choice("camera.image_transport", self.image_transport, ("raw", "compressed"))
        _check_choice("camera.reliability", self.reliability, ("best_effort", "reliable"))


@dataclass(frozen=True)
class MllmConfig:
    """Which MLLM is used."""

    backend: str = "none"
    """"none", "openai" or "transformers"."""
    openai: OpenAiConfig = field(default_factory=OpenAiConfig)
    transformers: TransformersConfig = field(default_factory=TransformersConfig)

    def __post_init__(self) -> None:
        _check_choice("mllm.backend", self.backend, ("none", "openai", "transformers"))


@dataclass(frozen=True)
class Config:
    """The whole system."""

    camera: CameraConfig = field(default_factory=CameraConfig)
    perception: PerceptionConfig = field(default_factory=PerceptionConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    reasoner: ReasonerConfig = field(default_factory=ReasonerConfig)
    mllm: MllmConfig = field(default_factory=MllmConfig)

    def __post_init__(self) -> None:
        if self.mllm.backend == "transformers" and self.mllm.transformers.model == "embedded":
            _check_embedded(self.reasoner)


def _check_embedded(reasoner: ReasonerConfig) -> None:
    """Raise ConfigurationError for prompts that the package's small MLLM was not trained on: it would answer them
    without saying that it does not know them."""
    usual, prompt = ReasonerConfig(), reasoner.visual_prompt
    if reasoner.turns or reasoner.max_targets != usual.max_targets or prompt not in EMBEDDED_PROMPTS:
        raise ConfigurationError(
            f"the embedded MLLM knows `reasoner.visual_prompt` bands of 9 x 9, 5 x 5 or 13 x 13, or none with 9 and 9, "
            f"`reasoner.max_targets` {usual.max_targets}, and no `reasoner.turns`: choose those, or another "
            "`mllm.transformers.model`"
        )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every value under its dotted name, as ROS names parameters: {"segmenter.model": "embedded", …}."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            values |= flatten(value, f"{prefix}{item.name}.")
        else:
            values[prefix + item.name] = value
    return values


def build(values: Mapping[str, Any]) -> Config:
    """The configuration with these values, given by their dotted names, and defaults for all others.

    Raises ConfigurationError for an unknown name, a value of the wrong type, or one that its dataclass rejects.
    """
    known, values = flatten(Config()), dict(values)
    for name, value in values.items():
        if name not in known:
            raise ConfigurationError(f"there is no option {name}; there are {', '.join(sorted(known))}")
        kind = type(known[name])
        if kind is float and isinstance(value, str):
            with contextlib.suppress(ValueError):
                values[name] = value = float(value)  # YAML 1.1 reads 1e-3 (no point) as text
        if not (type(value) is kind or (kind is float and type(value) is int)):
            raise ConfigurationError(f"{name} is {value!r}, but must be a {kind.__name__}")
    return _build(Config(), "", values)


def parse_value(text: str, kind: type) -> Any:
    """A value typed on a command line; text that does not parse is returned as it is, for `build` to refuse by name."""
    try:
        return text if kind is str else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


_OF_THE_NODE = ("autostart", "use_sim_time", "start_type_description_service", "qos_overrides")
"""The node's own parameters, which `ros2 param dump` writes, too."""


def load(path: str | Path) -> Config:
    """Read a ROS 2 parameter file, whatever node names it contains; the node's own parameters are left out.

    Raises ConfigurationError if it cannot be read, sets no parameters, or its values are refused.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"the configuration {path} cannot be read: {error}") from error
    found = _parameters_of(content)
    if not any(found):  # nothing in it would be used, and nobody would notice
        raise ConfigurationError(
            f"the configuration {path} sets no parameters: write them under `/**:` and `ros__parameters:`, as "
            "config/embedded.yaml does"
        )
    values: dict[str, Any] = {}

    def collect(node: Any, prefix: str) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                collect(value, f"{prefix}.{key}" if prefix else str(key))
        else:
            values[prefix] = node

    for parameters in found:
        collect(parameters, "")
    values = {name: value for name, value in values.items() if name.partition(".")[0] not in _OF_THE_NODE}
    try:
        return build(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"the configuration {path}: {error}") from error


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options --config and --set, whose values `load_changed` takes."""
    parser.add_argument(
        "--config",
        type=Path,
        help="parameter file, as for the node, e.g. config/embedded.yaml (default: the VLSM in the package, no MLLM)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override one option of --config, e.g. mllm.openai.base_url=http://gpu:8000/v1; may be repeated",
    )


def load_changed(path: str | Path | None, changes: Sequence[str]) -> Config:
    """A file's configuration (None: the default one) with some values changed, each given as "NAME=VALUE".

    Raises ConfigurationError.
    """
    values = flatten(load(path) if path else Config())
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {change!r}: write it as NAME=VALUE")
        values[name] = parse_value(text, type(values.get(name, "")))
    return build(values)


def _parameters_of(node: Any) -> list[Any]:
    if not isinstance(node, Mapping):
        return []
    found = [node["ros__parameters"]] if "ros__parameters" in node else []
    return found + [item for value in node.values() for item in _parameters_of(value)]


def _build(config: Any, prefix: str, values: Mapping[str, Any]) -> Any:
    fields = {}
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            fields[item.name] = _build(value, name + ".", values)
        else:
            fields[item.name] = type(value)(values.get(name, value))
    return type(config)(**fields)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{name} is {value!r}: it must be one of {', '.join(map(repr, choices))}")
