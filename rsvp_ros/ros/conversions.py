"""Conversions between ROS messages and the package's own types: images in, targets and reasoning out.

Filling `Image.data` is a trap of ROS in Python: bytes, a memoryview or an ndarray is checked or copied element by
element in one distribution or another (half a second for a 1080p image). `array.array.frombytes` is a plain copy in
all of them, and reading with `np.frombuffer` copies nothing.

Colours are converted by OpenCV, as in cv_bridge, with equal results (test/test_conversions.py compares them bit by
bit where cv_bridge is installed). cv_bridge itself is not called: from Python it is up to five times slower
(benchmark/conversions.py), knows fewer encodings, fails on big-endian images under NumPy 2, and is not safe to load at
all if it was built for NumPy 1 and NumPy 2 is installed.
"""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from builtin_interfaces.msg import Duration, Time
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from rsvp_ros import types
from rsvp_ros.action import FindTarget
from rsvp_ros.errors import InvalidImageError, InvalidInstructionError, RsvpError
from rsvp_ros.geometry import Box
from rsvp_ros.msg import BoundingBox2D, Reasoning, ReasoningStep, RegionProposal, Target, TargetArray

# Images in ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Encoding:
    """How the pixels of one `sensor_msgs/Image.encoding` lie in memory, and OpenCV's code that makes them RGB."""

    dtype: type
    channels: int
    code: int | None
    even_width: bool = False
    chroma_rows: bool = False
    """The luminance plane is followed by a colour plane of half as many rows (4:2:0)."""


# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first row's first two:
# bayer_rggb8 is COLOR_BayerBG2RGB. 8UC3 and 8UC4 say nothing of colour; BGR(A) is OpenCV's own order.
_BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}
_UYVY = _Encoding(np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY, even_width=True)
_YUYV = _Encoding(np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2, even_width=True)
_ENCODINGS = {
    "rgb8": _Encoding(np.uint8, 3, None),
    "bgr8": _Encoding(np.uint8, 3, cv2.COLOR_BGR2RGB),
    "rgba8": _Encoding(np.uint8, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Encoding(np.uint8, 4, cv2.COLOR_BGRA2RGB),
    "mono8": _Encoding(np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": _Encoding(np.uint16, 3, None),
    "bgr16": _Encoding(np.uint16, 3, cv2.COLOR_BGR2RGB),
    "rgba16": _Encoding(np.uint16, 4, cv2.COLOR_RGBA2RGB),
    "bgra16": _Encoding(np.uint16, 4, cv2.COLOR_BGRA2RGB),
    "mono16": _Encoding(np.uint16, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": _Encoding(np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Encoding(np.uint8, 3, cv2.COLOR_BGR2RGB),
    "8UC4": _Encoding(np.uint8, 4, cv2.COLOR_BGRA2RGB),
    "16UC1": _Encoding(np.uint16, 1, cv2.COLOR_GRAY2RGB),
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,
    "nv12": _Encoding(np.uint8, 1, cv2.COLOR_YUV2RGB_NV12, even_width=True, chroma_rows=True),
    "nv21": _Encoding(np.uint8, 1, cv2.COLOR_YUV2RGB_NV21, even_width=True, chroma_rows=True),
    **{f"{name}8": _Encoding(np.uint8, 1, code) for name, code in _BAYER.items()},
    **{f"{name}16": _Encoding(np.uint16, 1, code) for name, code in _BAYER.items()},
}

SUPPORTED_ENCODINGS = tuple(_ENCODINGS)


def image_to_array(msg: Image) -> np.ndarray:
    """The picture, uint8 H x W x 3 RGB, C-contiguous; shares the message's memory if it is rgb8 without padding.

    16-bit images are scaled by 255 / 65535, as in cv_bridge; 8UC3 and 8UC4 are taken as BGR(A); alpha is dropped.

    Raises:
        InvalidImageError: an unknown encoding, a side below 2 pixels, or a buffer that does not match the sizes.
    """
    encoding = _ENCODINGS.get(msg.encoding)
    if encoding is None:
        raise InvalidImageError(
            f"the image's encoding {msg.encoding!r} is not supported; have the camera publish one of: "
            + ", ".join(_ENCODINGS)
        )
    if (encoding.even_width and msg.width % 2) or (encoding.chroma_rows and msg.height % 2):
        raise InvalidImageError(
            f"{msg.encoding} shares colours between neighbouring pixels and needs even sides, but the image is "
            f"{msg.width} x {msg.height}"
        )
    rows = msg.height * 3 // 2 if encoding.chroma_rows else msg.height
    pixels = _pixels(msg, encoding.dtype, encoding.channels, rows)
    if encoding.code is not None:
        pixels = cv2.cvtColor(pixels, encoding.code)
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    return np.ascontiguousarray(pixels)


def _pixels(msg: Image, dtype: type, channels: int, rows: int) -> np.ndarray:
    """View of `rows` x width (x channels) pixels in native byte order, without the rows' padding."""
    what = f"image {msg.width} x {msg.height} {msg.encoding!r}"
    if msg.width < 2 or msg.height < 2:
        raise InvalidImageError(f"{what}: both sides must have at least 2 pixels; check the camera's driver")
    itemsize = np.dtype(dtype).itemsize
    row_bytes = msg.width * channels * itemsize
    if msg.step < row_bytes:
        raise InvalidImageError(f"{what}: step is {msg.step} bytes, but a row of pixels needs {row_bytes}")
    if len(msg.data) != rows * msg.step:
        raise InvalidImageError(
            f"{what}: data has {len(msg.data)} bytes, but {rows} rows of step {msg.step} make {rows * msg.step}"
        )
    data = np.frombuffer(msg.data, np.uint8).reshape(rows, msg.step)[:, :row_bytes]
    if itemsize > 1:
        byte_order = ">" if msg.is_bigendian else "<"
        # A step need not be a multiple of the item's size: cut the padding first, then view the rows as wider items.
        data = np.ascontiguousarray(data).view(np.dtype(dtype).newbyteorder(byte_order)).astype(dtype, copy=False)
    return data if channels == 1 else data.reshape(rows, msg.width, channels)


def compressed_to_array(msg: CompressedImage) -> np.ndarray:
    """The picture of a JPEG, PNG, … message, uint8 H x W x 3 RGB; EXIF orientation is ignored, as sensors expect.

    `format` is read as compressed_image_transport writes it ("rgb8; jpeg compressed bgr8"): colours were stored in the
    order named last.

    Raises:
        InvalidImageError: empty, not an image, a truncated JPEG, a depth image, or a side below 2 pixels.
    """
    what = f"compressed image with format {msg.format!r} and {len(msg.data)} bytes"
    if "compressedDepth" in msg.format:
        raise InvalidImageError(f"{what}: this is a depth image; give the colour camera's topic")
    data = np.frombuffer(msg.data, np.uint8)
    # Older OpenCV (4.6, as in Ubuntu 24.04) fills the missing part of a JPEG with grey and says nothing. The end marker
    # cannot occur within a JPEG's data.
    cut_off = data[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in data.tobytes()
    image = None
    if data.size and not cut_off:
        try:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:  # sizes in a broken header that OpenCV refuses
            image = None
    if image is None:
        reason = "it ends in the middle" if cut_off else "it cannot be decoded"
        raise InvalidImageError(f"{what}: {reason}; JPEG and PNG are understood")
    if min(image.shape[:2]) < 2:
        raise InvalidImageError(f"{what}: it is {image.shape[1]} x {image.shape[0]}, both sides need at least 2 pixels")
    return image if "compressed rgb" in msg.format else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def depth_to_array(msg: Image) -> np.ndarray:
    """Depth, float32 H x W in metres, NaN where there is none (REP 118).

    32FC1 is metres; 16UC1 (and mono16, which some drivers use for it) is millimetres, 0 for invalid. Infinite and
    non-positive values are NaN in the result: "too near" and "too far" are not depths.

    Raises:
        InvalidImageError: an unknown encoding, a side below 2 pixels, or a buffer that does not match the sizes.
    """
    if msg.encoding == "32FC1":
        depth = _pixels(msg, np.float32, 1, msg.height)
        numbers = np.finfo(np.float32)
        valid = cv2.inRange(depth, float(numbers.tiny), float(numbers.max))
        return cv2.copyTo(depth, valid, np.full_like(depth, np.nan))
    if msg.encoding in ("16UC1", "mono16"):
        millimetres = _pixels(msg, np.uint16, 1, msg.height)
        depth = np.multiply(millimetres, np.float32(0.001), dtype=np.float32)
        depth[millimetres == 0] = np.nan
        return depth
    raise InvalidImageError(
        f"the depth image's encoding {msg.encoding!r} is not one of REP 118; "
        "have the camera publish 32FC1 (metres) or 16UC1 (millimetres)"
    )


# Images out -----------------------------------------------------------------------------------------------------------

_OUTPUT = {
    "mono8": (np.uint8, 2),
    "mono16": (np.uint16, 2),
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "16UC1": (np.uint16, 2),
    "32FC1": (np.float32, 2),
}


def array_to_image(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """A message with H x W (x 3) pixels that are already in `encoding`; any strides. The data is copied once.

    Raises:
        ValueError: the array's type or shape is not the encoding's (mono8, mono16, rgb8, bgr8, 16UC1, 32FC1).
    """
    dtype, ndim = _OUTPUT[encoding]
    if pixels.dtype != dtype or pixels.ndim != ndim or (ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(f"{encoding} needs {np.dtype(dtype)} in {ndim} dimensions, got {pixels.dtype} {pixels.shape}")
    msg = Image(header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    msg.is_bigendian = int(sys.byteorder == "big")
    msg.step = pixels.shape[1] * (3 if ndim == 3 else 1) * pixels.itemsize
    msg.data = to_byte_array(pixels)
    return msg


def to_byte_array(values: np.ndarray) -> array.array:
    """The bytes of an array, C order, in the one type that every distribution's setters take without checking it."""
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
    return data


# Time and text --------------------------------------------------------------------------------------------------------


def time_to_ns(stamp: Time) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def ns_to_duration(nanoseconds: int) -> Duration:
    sec, nanosec = divmod(int(nanoseconds), 1_000_000_000)
    return Duration(sec=sec, nanosec=nanosec)


def seconds_to_duration(seconds: float) -> Duration:
    return ns_to_duration(round(seconds * 1e9))


def clean_text(text: str) -> str:
    """Text that a ROS string can carry: a model may write a NUL (which ends a C string) or half of a surrogate pair
    (which UTF-8 cannot encode, so that publishing raises)."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


# Boxes, proposals, reasoning ------------------------------------------------------------------------------------------


def box_to_msg(box: Box) -> BoundingBox2D:
    center_x, center_y = box.center
    return BoundingBox2D(
        center_x=float(center_x), center_y=float(center_y), size_x=float(box.width), size_y=float(box.height)
    )


def msg_to_box(msg: BoundingBox2D) -> Box:
    """The box that a caller asks to follow.

    Raises:
        InvalidInstructionError: it is not finite, or has no area.
    """
    x0, y0 = msg.center_x - msg.size_x / 2, msg.center_y - msg.size_y / 2
    finite = all(map(math.isfinite, (x0, y0, x0 + msg.size_x, y0 + msg.size_y)))
    if not finite or msg.size_x <= 0 or msg.size_y <= 0:
        raise InvalidInstructionError(
            "the box to follow needs finite corners and a size above 0 in pixels, got center "
            f"({msg.center_x:g}, {msg.center_y:g}), size ({msg.size_x:g}, {msg.size_y:g})"
        )
    return Box.from_xywh(x0, y0, msg.size_x, msg.size_y)


def proposal_to_msg(proposal: types.RegionProposal) -> RegionProposal:
    return RegionProposal(
        bbox=box_to_msg(proposal.box),
        class_name=clean_text(proposal.name),
        attributes=[clean_text(attribute) for attribute in proposal.attributes],
        rows=list(proposal.rows),
        columns=list(proposal.columns),
        score=float(proposal.score),
        reason=clean_text(proposal.reason),
    )


def step_to_msg(step: types.ReasoningStep) -> ReasoningStep:
    return ReasoningStep(name=clean_text(step.name), text=clean_text(step.text))


def reasoning_to_msg(
    reasoning: types.Reasoning,
    header: Header,
    complete: bool = True,
    error: RsvpError | None = None,
    unseen: str = "",
) -> Reasoning:
    """The message about one request's reasoning, as far as it is known.

    Args:
        header: that of the image reasoned about.
        error: what ended it, if it failed.
        unseen: if the segmenter sees none of what was proposed, why.
    """
    code = error.code if error else FindTarget.Result.NOT_FOUND if unseen else FindTarget.Result.NONE
    return Reasoning(
        header=header,
        instruction=clean_text(reasoning.instruction),
        complete=complete,
        found=complete and not code and reasoning.found,
        error_code=code,
        error_msg=clean_text(str(error) if error else unseen),
        steps=[step_to_msg(step) for step in reasoning.steps],
        proposals=[proposal_to_msg(proposal) for proposal in reasoning.proposals],
        raw_text=clean_text(reasoning.raw_text),
        model=clean_text(reasoning.model),
        duration=seconds_to_duration(reasoning.duration_s),
        prompt_tokens=reasoning.prompt_tokens,
        completion_tokens=reasoning.completion_tokens,
    )


# Targets --------------------------------------------------------------------------------------------------------------


def target_to_msg(target: types.Target, header: Header) -> Target:
    """A target with its mask cropped to its tight box; the mask is empty unless the target's state is TRACKING."""
    msg = Target(
        id=target.id,
        class_name=clean_text(target.name),
        description=clean_text(target.description),
        instruction=clean_text(target.instruction),
        state=int(target.state),
        score=float(target.score),
        presence=float(target.presence),
        bbox=box_to_msg(target.box),
        age=ns_to_duration(target.age_ns),
    )
    msg.mask.header = header
    msg.mask.encoding = "mono8"
    if target.mask is not None:
        height, width = target.mask.shape
        ys, xs = target.box.to_slices(width, height)
        crop = target.mask[ys, xs]
        msg.mask_roi = RegionOfInterest(x_offset=xs.start, y_offset=ys.start, width=crop.shape[1], height=crop.shape[0])
        msg.mask = array_to_image(crop.view(np.uint8) * np.uint8(255), "mono8", header)
    return msg


def targets_to_msg(result: types.TargetsInFrame, header: Header) -> TargetArray:
    """All targets of one image; `header` is the image's own."""
    height, width = result.frame.image.shape[:2]
    return TargetArray(
        header=header,
        image_width=width,
        image_height=height,
        targets=[target_to_msg(target, header) for target in result.targets],
        segmenter_duration=seconds_to_duration(result.segment_s),
    )


def mask_from_msg(msg: Target, height: int, width: int) -> np.ndarray:
    """The target's mask in the whole image, bool H x W; all false if the target is not seen.

    `height` and `width` are `image_height` and `image_width` of the TargetArray.

    Raises:
        InvalidImageError: the mask does not match its `mask_roi`, or lies outside an image of this size.
    """
    mask = np.zeros((height, width), bool)
    roi = msg.mask_roi
    if not msg.mask.data:
        return mask
    if len(msg.mask.data) != roi.height * roi.width:
        raise InvalidImageError(
            f"target {msg.id}: the mask has {len(msg.mask.data)} bytes, but its mask_roi is {roi.width} x {roi.height}"
        )
    if roi.x_offset + roi.width > width or roi.y_offset + roi.height > height:
        raise InvalidImageError(
            f"target {msg.id}: its mask reaches column {roi.x_offset + roi.width}, row {roi.y_offset + roi.height} "
            f"and does not fit into an image of {width} x {height}"
        )
    crop = np.frombuffer(msg.mask.data, np.uint8).reshape(roi.height, roi.width)
    mask[roi.y_offset : roi.y_offset + roi.height, roi.x_offset : roi.x_offset + roi.width] = crop > 0
    return mask


def label_image(targets: Iterable[types.Target], height: int, width: int) -> np.ndarray:
    """uint16 H x W: in each pixel the id of the target that it belongs to, 0 for none.

    Where masks overlap, the target with the smaller box wins: a cup on a tray stays visible.
    """
    labels = np.zeros((height, width), np.uint16)
    seen = (target for target in targets if target.mask is not None)
    for target in sorted(seen, key=lambda target: -target.box.area):
        region = target.box.to_slices(width, height)
        labels[region][target.mask[region]] = target.id
    return labels
