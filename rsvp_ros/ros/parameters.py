"""The node's parameters: one for every field of the dataclasses that configure the parts, under the part's name.

The defaults, and what values can work together, are the dataclasses' own; here stand the descriptions and ranges that
`ros2 param describe` shows, and which parameters may change while the node runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.perception import PerceptionConfig
from rsvp_ros.reasoning.mllm.openai_mllm import OpenAiConfig
from rsvp_ros.reasoning.mllm.transformers_mllm import TransformersConfig
from rsvp_ros.reasoning.reasoner import ReasonerConfig
from rsvp_ros.segmentation.loading import SegmenterConfig
from rsvp_ros.tracking.tracker import TrackerConfig


@dataclass(frozen=True)
class CameraConfig:
    """Which images to take, and how."""

    image_transport: str = "raw"
    reliability: str = "best_effort"
    use_3d: bool = False


@dataclass(frozen=True)
class MllmConfig:
    """Which MLLM to ask."""

    backend: str = "none"
    openai: OpenAiConfig = field(default_factory=OpenAiConfig)
    transformers: TransformersConfig = field(default_factory=TransformersConfig)


@dataclass(frozen=True)
class NodeConfig:
    """All that the parameters say."""

    camera: CameraConfig = field(default_factory=CameraConfig)
    perception: PerceptionConfig = field(default_factory=PerceptionConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    reasoner: ReasonerConfig = field(default_factory=ReasonerConfig)
    mllm: MllmConfig = field(default_factory=MllmConfig)


LIVE_PARTS = ("perception.", "tracker.", "reasoner.")
"""What these configure is cheap to change; all else (models, subscriptions) is set up when the node is configured."""


@dataclass(frozen=True)
class Option:
    """What `ros2 param describe` tells of a parameter."""

    description: str
    low: float | None = None
    high: float | None = None
    choices: Sequence[str] = ()


DEVICES = "'auto' (a GPU where there is one), 'cpu', 'cuda', 'cuda:1', …"
DTYPES = ("auto", "float32", "bfloat16", "float16")

OPTIONS: Mapping[str, Option] = {
    "camera.image_transport": Option(
        "'raw' subscribes to image_raw (sensor_msgs/Image), 'compressed' to image_raw/compressed "
        "(sensor_msgs/CompressedImage)",
        choices=("raw", "compressed"),
    ),
    "camera.reliability": Option(
        "QoS of the image subscriptions; 'best_effort' connects to every camera, 'reliable' only to reliable ones",
        choices=("best_effort", "reliable"),
    ),
    "camera.use_3d": Option(
        "Subscribe to depth_image and camera_info, and publish target_pose, target_points and markers in space"
    ),
    "perception.image_timeout_s": Option("An instruction waits this long for an image [s]", 0.1, 3600.0),
    "perception.catch_up_frames": Option(
        "A result of the MLLM is carried from the image it reasoned about to the newest one through at most so many "
        "images between; more follow faster motion, fewer arrive sooner",
        0,
        32,
    ),
    "perception.ask_again": Option("When all targets of the last instruction are lost, ask the MLLM again"),
    "perception.ask_again_interval_s": Option("But not more often than this [s]", 0.0, 3600.0),
    "tracker.padding": Option(
        "The segmenter looks in the predicted box grown on every side by this share of its size", 0.0, 1.0
    ),
    "tracker.min_score": Option("A mask of lower quality is not the target", 0.0, 1.0),
    "tracker.min_presence": Option(
        "Where the description is less likely to be there than this, the target is not seen", 0.0, 1.0
    ),
    "tracker.max_area_ratio": Option(
        "A box that grew or shrank by more than this factor from one image to the next is not the target", 1.0, 100.0
    ),
    "tracker.lost_after_s": Option("Unseen for longer than this, a target is lost [s]", 0.0, 3600.0),
}


def describe(name: str, default: object) -> ParameterDescriptor:
    """The descriptor of one parameter."""
    option = OPTIONS[name]
    descriptor = ParameterDescriptor(description=option.description)
    if option.choices:
        descriptor.additional_constraints = "one of: " + ", ".join(repr(choice) for choice in option.choices)
    if option.low is not None and isinstance(default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(option.low), to_value=float(option.high))]
    elif option.low is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(option.low), to_value=int(option.high))]
    if not name.startswith(LIVE_PARTS):
        descriptor.additional_constraints += "; " * bool(descriptor.additional_constraints) + "read when the node is configured"
    return descriptor


def defaults(config: object | None = None, prefix: str = "") -> dict[str, Any]:
    """All parameters' names and default values."""
    values: dict[str, Any] = {}
    config = config or NodeConfig()
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            values |= defaults(value, f"{prefix}{item.name}.")
        else:
            values[prefix + item.name] = value
    return values


def declare(node: Node) -> None:
    """Declare all parameters on the node."""
    for name, default in defaults().items():
        node.declare_parameter(name, default, describe(name, default))


def read(node: Node, changes: Sequence[Parameter] = ()) -> NodeConfig:
    """The configuration that the parameters give, with `changes` applied.

    Raises ConfigurationError, naming the parameter and what it may be.
    """
    values = {name: node.get_parameter(name).value for name in defaults()}
    values |= {parameter.name: parameter.value for parameter in changes if parameter.name in values}
    for name, value in values.items():
        choices = OPTIONS[name].choices
        if choices and value not in choices:
            raise ConfigurationError(f"parameter {name} is {value!r}: it must be one of {', '.join(map(repr, choices))}")
    return _build(NodeConfig(), "", values)


def _build(config: Any, prefix: str, values: Mapping[str, Any]) -> Any:
    fields = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        name = prefix + item.name
        fields[item.name] = _build(value, name + ".", values) if dataclasses.is_dataclass(value) else values[name]
    return type(config)(**fields)
