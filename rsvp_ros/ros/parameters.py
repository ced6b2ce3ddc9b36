"""The node's parameters: one for every field of the dataclasses that configure the parts, under the part's name.

The dataclasses hold the defaults and know which values can work together; this module holds the descriptions and ranges
that `ros2 param describe` shows, and says which parameters may change while the node runs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from rsvp_ros.config import Config, build, flatten

LIVE_PARTS = ("perception.", "tracker.", "reasoner.")
"""What these configure is cheap to change; all else (models, subscriptions) is read when the node is configured."""
AUTOSTART = "Whether the node configures and activates itself when it starts"


@dataclass(frozen=True)
class Option:
    """What `ros2 param describe` tells about a parameter."""

    description: str
    low: float | None = None
    high: float | None = None
    choices: Sequence[str] = ()


DEVICES = "'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', …"
DTYPES = ("auto", "float32", "bfloat16", "float16")

OPTIONS: Mapping[str, Option] = {
    "camera.image_transport": Option(
        "'raw' subscribes to image_raw (sensor_msgs/Image), 'compressed' to image_raw/compressed "
        "(sensor_msgs/CompressedImage)",
        choices=("raw", "compressed"),
    ),
    "camera.reliability": Option(
        "Reliability QoS of the image subscriptions; 'best_effort' connects to every camera, 'reliable' only to "
        "cameras that publish reliably",
        choices=("best_effort", "reliable"),
    ),
    "camera.use_3d": Option(
        "Subscribe to depth_image and camera_info, and publish target_pose, target_points and markers"
    ),
    "perception.image_timeout_s": Option(
        "How long an instruction waits for an image before it fails, and the greatest age of the one it is about [s]",
        0.1,
        3600.0,
    ),
    "perception.catch_up_frames": Option(
        "A result of the MLLM is carried from the image it reasoned about to the newest one through at most this many "
        "images in between; with more of them it follows faster motion, with fewer it arrives sooner",
        0,
        32,
    ),
    "perception.ask_again": Option("Ask the MLLM again when all targets of the last instruction are lost"),
    "perception.ask_again_interval_s": Option(
        "With ask_again: the minimum time between two such requests [s]", 0.0, 3600.0
    ),
    "tracker.padding": Option(
        "A new target's own region is the box of its first mask, grown on every side by this share of the box's size",
        0.0,
        1.0,
    ),
    "tracker.min_score": Option(
        "A mask whose quality score is lower than this is not accepted as the target", 0.0, 1.0
    ),
    "tracker.min_presence": Option(
        "If what is described is less likely than this to be in the target's region, the target counts as not seen",
        0.0,
        1.0,
    ),
    "tracker.max_area_ratio": Option(
        "A mask is not accepted as the target if its box is larger or smaller, by more than this factor in area, than "
        "both the target's last box and its usual one",
        1.0,
        100.0,
    ),
    "tracker.min_similarity": Option(
        "A mask whose colours are less similar than this to the target's is not accepted as the target", 0.0, 1.0
    ),
    "tracker.lost_after_s": Option("How long a target may go unseen before it counts as lost [s]", 0.0, 3600.0),
    "tracker.give_up_after_s": Option(
        "A lost target that has been unseen for longer than this is no longer looked for; 0: give up as soon as it is "
        "lost [s]",
        0.0,
        3600.0,
    ),
    "segmenter.backend": Option(
        "Stage 2: 'vlsm' is this package's own network; the others adapt segment-anything and the SAM families of "
        "transformers; 'text_sam' is one of these extended by a text path",
        choices=("vlsm", "segment_anything", "transformers", "text_sam"),
    ),
    "segmenter.model": Option(
        "vlsm: 'embedded' or a folder; segment_anything: a checkpoint file; transformers: a folder or a hub name; "
        "text_sam: the folder of a text path"
    ),
    "segmenter.device": Option(DEVICES),
    "segmenter.dtype": Option(
        "Precision of the segmenter; 'auto' is the fastest that loses no accuracy", choices=DTYPES
    ),
    "segmenter.model_type": Option(
        "transformers only: load the folder as a different model type than its config.json says, e.g. 'sam3_tracker'"
    ),
    "segmenter.compile": Option(
        "Compile the image encoder with torch.compile: start-up takes a minute or two longer and needs a C++ compiler"
    ),
    "reasoner.visual_prompt.style": Option(
        "What is drawn on the image for the MLLM: numbered row and column bands (RSVP), numbered marks, or nothing",
        choices=("bands", "marks", "none"),
    ),
    "reasoner.visual_prompt.rows": Option("Number of horizontal bands", 1, 32),
    "reasoner.visual_prompt.columns": Option("Number of vertical bands", 1, 32),
    "reasoner.family": Option(
        "The convention in which the MLLM writes coordinates (docs/mllm.md); 'auto': chosen by the model's name"
    ),
    "reasoner.turns": Option(
        "Ask for the steps of the chain of thought in separate turns, not in one structured answer"
    ),
    "reasoner.padding": Option(
        "A region given by bands is grown on every side by this share of its size, a box by a quarter of that", 0.0, 1.0
    ),
    "reasoner.max_targets": Option("Maximum number of targets per instruction", 1, 100),
    "reasoner.max_instruction_chars": Option("An instruction with more characters than this is refused", 1, 100_000),
    "reasoner.reask": Option("How many times the MLLM is told what was wrong with its answer and asked again", 0, 10),
    "mllm.backend": Option(
        "Stage 1: 'openai' is any OpenAI-compatible server, 'transformers' a model on this machine; with 'none', "
        "instructions are taken literally if the segmenter reads text, and refused if it reads only boxes",
        choices=("none", "openai", "transformers"),
    ),
    "mllm.openai.base_url": Option("URL of the server, e.g. http://localhost:8000/v1"),
    "mllm.openai.model": Option("Name of the model on the server; empty: the first one that the server lists"),
    "mllm.openai.api_key_env": Option(
        "Name of the environment variable that holds the API key; a server without keys needs none"
    ),
    "mllm.openai.connect_timeout_s": Option("The server must accept the connection within this time [s]", 0.1, 600.0),
    "mllm.openai.first_token_timeout_s": Option(
        "The answer must begin within this time and must never pause for longer [s]", 0.1, 3600.0
    ),
    "mllm.openai.total_timeout_s": Option(
        "The answer must be complete within this time, retries included [s]", 0.1, 3600.0
    ),
    "mllm.openai.max_retries": Option(
        "How many times to try again after a refused connection, a busy server or an error on its side", 0, 20
    ),
    "mllm.openai.max_tokens": Option("Maximum length of an answer, thinking included [tokens]", 1, 131_072),
    "mllm.openai.temperature": Option("Sampling temperature; 0: always the most likely token", 0.0, 2.0),
    "mllm.openai.image_format": Option("Format in which the image is sent", choices=("jpeg", "png")),
    "mllm.openai.jpeg_quality": Option("JPEG quality, if the image is sent as a JPEG", 1, 100),
    "mllm.openai.max_pixels": Option(
        "A larger image is scaled down to this many pixels; 0: never; for Qwen2.5-VL at least 802816 (docs/mllm.md)",
        0,
        2**31 - 1,
    ),
    "mllm.transformers.model": Option("'embedded', a folder or a hub name; loaded by AutoModelForImageTextToText"),
    "mllm.transformers.device": Option(DEVICES),
    "mllm.transformers.dtype": Option("Precision of the MLLM; 'auto' is the checkpoint's own", choices=DTYPES),
    "mllm.transformers.quantization": Option(
        "Quantization by bitsandbytes, to save memory", choices=("none", "int8", "int4")
    ),
    "mllm.transformers.attention": Option("Attention kernel", choices=("auto", "sdpa", "eager", "flash_attention_2")),
    "mllm.transformers.max_pixels": Option("A larger image is scaled down to this many pixels; 0: never", 0, 2**31 - 1),
    "mllm.transformers.max_new_tokens": Option("Maximum length of an answer, thinking included [tokens]", 1, 131_072),
    "mllm.transformers.temperature": Option("Sampling temperature; 0: always the most likely token", 0.0, 2.0),
    "mllm.transformers.revision": Option("Branch, tag or commit on the hub; empty: the main branch"),
}


def describe(name: str, default: object) -> ParameterDescriptor:
    """The descriptor of one parameter."""
    option = OPTIONS[name]
    descriptor = ParameterDescriptor(description=option.description)
    if option.choices:
        descriptor.additional_constraints = "one of: " + ", ".join(repr(choice) for choice in option.choices)
    if option.low is not None and isinstance(default, float):
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(option.low), to_value=float(option.high))
        ]
    elif option.low is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(option.low), to_value=int(option.high))]
    if not name.startswith(LIVE_PARTS):
        descriptor.additional_constraints += (
            "; " * bool(descriptor.additional_constraints) + "read when the node is configured"
        )
    return descriptor


def declare(node: Node) -> dict[str, str]:
    """Declare all parameters on the node.

    A parameter that is given a value of the wrong type or out of range keeps its default. Returns what is wrong, by the
    parameter's name, so that the node can start and report it.
    """
    problems = {}
    for name, default in {**flatten(Config()), "autostart": True}.items():
        descriptor = describe(name, default) if name in OPTIONS else ParameterDescriptor(description=AUTOSTART)
        try:
            node.declare_parameter(name, default, descriptor)
        except (InvalidParameterTypeException, InvalidParameterValueException):
            value = node._parameter_overrides[name].value
            if type(value) is int and isinstance(default, float) and _is_in_range(name, value):
                node.declare_parameter(name, float(value), descriptor, ignore_override=True)  # YAML's 3 for 3.0
                continue
            wanted = type(default).__name__
            if descriptor.floating_point_range or descriptor.integer_range:
                wanted += f" from {OPTIONS[name].low:g} to {OPTIONS[name].high:g}"
            problems[name] = f"parameter {name} is {value!r}: it must be a {wanted}"
            node.declare_parameter(name, default, descriptor, ignore_override=True)
    parts = tuple({name.partition(".")[0] + "." for name in OPTIONS})
    for name in node._parameter_overrides:
        if name.startswith(parts) and name not in OPTIONS:
            close = difflib.get_close_matches(name, OPTIONS, 1)
            hint = f": did you mean {close[0]}?" if close else ""
            node.get_logger().warning(f"There is no parameter {name}, it is ignored{hint}")
    return problems


def _is_in_range(name: str, value: float) -> bool:
    option = OPTIONS[name]
    return option.low is None or option.low <= value <= option.high


def read(node: Node, changes: Sequence[Parameter] = ()) -> Config:
    """The configuration that the parameters give, with `changes` applied.

    Raises ConfigurationError, naming the parameter and what it may be.
    """
    names = flatten(Config())
    values = {name: node.get_parameter(name).value for name in names}
    return build(values | {change.name: change.value for change in changes if change.name in names})


def check(node: Node, changes: Sequence[Parameter], alone: bool) -> None:
    """Raise ConfigurationError if changes cannot work; `alone`: whatever the other parameters are.

    A node that is not configured may have several wrong parameters, which are corrected one by one.
    """
    if alone:
        build({change.name: change.value for change in changes if change.name in OPTIONS})
    else:
        read(node, changes)


def read_when_configured(name: str) -> bool:
    """Whether this is a parameter of the system that takes effect only when the node is configured."""
    return name in OPTIONS and not name.startswith(LIVE_PARTS)
