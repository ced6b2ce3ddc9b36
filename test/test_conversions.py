"""ROS messages to the package's types and back: every encoding, every way a message can be wrong, what it may cost."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rsvp_ros.msg", reason="the messages are not built: run colcon build and source install/setup.bash")
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from rsvp_ros import msg as rsvp_msgs
from rsvp_ros import types
from rsvp_ros.action import FindTarget
from rsvp_ros.errors import InvalidImageError, InvalidInstructionError, ServerTimeoutError
from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.ros import conversions

HEADER = Header(frame_id="camera_color_optical_frame")
HEADER.stamp.sec, HEADER.stamp.nanosec = 12, 345


def photo(height: int = 48, width: int = 64) -> np.ndarray:
    """A picture with smooth colours and one hard edge, uint8 RGB."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1)
    image[height // 3 : height // 2, width // 3 : width // 2] = (250, 20, 60)
    return image.astype(np.uint8)


def message(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False, height: int = 0) -> Image:
    """An Image made by hand, row by row, independent of the code under test."""
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = [stored[y].tobytes() + b"\xaa" * padding for y in range(len(stored))]
    msg = Image(header=HEADER, height=height or pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    msg.step, msg.is_bigendian = len(rows[0]), int(big_endian)
    msg.data.frombytes(b"".join(rows))
    return msg


def gray(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def with_alpha(image: np.ndarray) -> np.ndarray:
    return np.dstack([image, np.full(image.shape[:2], 7, image.dtype)])


def wide(image: np.ndarray) -> np.ndarray:
    """The same picture in 16 bits."""
    return image.astype(np.uint16) * 257


EXACT = {
    "rgb8": lambda i: i,
    "bgr8": lambda i: i[..., ::-1],
    "8UC3": lambda i: i[..., ::-1],
    "rgba8": with_alpha,
    "bgra8": lambda i: with_alpha(i[..., ::-1]),
    "8UC4": lambda i: with_alpha(i[..., ::-1]),
    "rgb16": wide,
    "bgr16": lambda i: wide(i[..., ::-1]),
    "rgba16": lambda i: with_alpha(wide(i)),
    "bgra16": lambda i: with_alpha(wide(i[..., ::-1])),
}
GRAY = {"mono8": gray, "8UC1": gray, "mono16": lambda i: wide(gray(i)), "16UC1": lambda i: wide(gray(i))}
BAYER = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", [*EXACT, *GRAY])
def test_every_plain_encoding_gives_back_the_picture(encoding, padding):
    image = photo()
    make = EXACT.get(encoding) or GRAY[encoding]
    expected = image if encoding in EXACT else np.repeat(gray(image)[..., None], 3, axis=2)
    for big_endian in (False, True) if "16" in encoding else (False,):
        got = conversions.image_to_array(message(make(image), encoding, padding, big_endian))
        assert got.dtype == np.uint8 and got.flags.c_contiguous
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", BAYER)
def test_bayer(pattern, bits):
    """Each pixel of the mosaic keeps one colour: the first two rows' first two pixels are what the name spells."""
    colour = np.array([200, 120, 40], np.uint8)
    mosaic = np.empty((8, 10), np.uint8)
    for i, letter in enumerate(pattern):
        mosaic[i // 2 :: 2, i % 2 :: 2] = colour["rgb".index(letter)]
    pixels = mosaic if bits == 8 else wide(mosaic)
    got = conversions.image_to_array(message(pixels, f"bayer_{pattern}{bits}", padding=3))
    np.testing.assert_array_equal(got[2:-2, 2:-2], np.broadcast_to(colour, (4, 6, 3)))


def yuv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ITU-R BT.601, limited range, by the formula, not by OpenCV."""
    r, g, b = (image[..., c].astype(float) for c in range(3))
    return (
        16 + 0.257 * r + 0.504 * g + 0.098 * b,
        128 - 0.148 * r - 0.291 * g + 0.439 * b,
        128 + 0.439 * r - 0.368 * g - 0.071 * b,
    )


@pytest.mark.parametrize("encoding", ["uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21"])
def test_yuv(encoding):
    image = np.repeat(np.repeat(photo(8, 10), 2, axis=0), 2, axis=1)  # 2 x 2 pixels share a colour: nothing is lost
    y, u, v = (np.rint(plane).astype(np.uint8) for plane in yuv(image))
    if encoding.startswith("nv"):
        first, second = (u, v) if encoding == "nv12" else (v, u)
        chroma = np.stack([first[::2, ::2], second[::2, ::2]], axis=-1).reshape(8, 20)
        msg = message(np.vstack([y, chroma]), encoding, padding=4, height=16)
    else:
        uv = np.empty_like(y)
        uv[:, 0::2], uv[:, 1::2] = u[:, ::2], v[:, ::2]
        order = [uv, y] if encoding in ("uyvy", "yuv422") else [y, uv]
        msg = message(np.stack(order, axis=-1), encoding, padding=4)
    got = conversions.image_to_array(msg)
    assert got.shape == image.shape
    assert np.abs(got.astype(int) - image).max() <= 4  # 8-bit YUV holds no more


def test_all_16_bit_values_are_scaled_and_rounded():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    got = conversions.image_to_array(message(values, "mono16"))[..., 0]
    np.testing.assert_array_equal(got, (values.astype(int) + 128) // 257)


def test_rgb8_without_padding_is_not_copied():
    msg = message(photo(), "rgb8")
    assert np.shares_memory(conversions.image_to_array(msg), np.frombuffer(msg.data, np.uint8))


def broken(**fields) -> Image:
    msg = message(photo(), fields.pop("encoding", "rgb8"))
    for name, value in fields.items():
        setattr(msg, name, value)
    return msg


@pytest.mark.parametrize(
    ("msg", "words"),
    [
        (Image(), ["''", "rgb8"]),
        (broken(encoding="rgb8", width=0), ["0 x 48", "2 pixels"]),
        (broken(encoding="rgb8", height=1), ["64 x 1", "2 pixels"]),
        (message(np.zeros((1, 1, 3), np.uint8), "bgr8"), ["1 x 1"]),
        (broken(step=0), ["step is 0", "192"]),
        (broken(step=191), ["step is 191", "192"]),
        (broken(height=49), ["9216 bytes", "49 rows"]),
        (broken(height=47), ["9216 bytes", "47 rows"]),
        (message(photo(), "hologram9"), ["'hologram9'", "rgb8", "bayer_rggb8"]),
        (message(np.zeros((4, 5, 2), np.uint8), "uyvy"), ["even", "5 x 4"]),
        (message(np.zeros((6, 5), np.uint8), "nv12", height=4), ["even", "5 x 4"]),
        (message(np.zeros((4, 4), np.float32), "32FC1"), ["'32FC1'", "supported"]),
    ],
    ids=lambda value: None if isinstance(value, list) else f"{value.width}x{value.height}-{value.encoding}",
)
def test_unusable_images_are_refused_by_name(msg, words):
    with pytest.raises(InvalidImageError) as error:
        conversions.image_to_array(msg)
    for word in words:
        assert word in str(error.value)


@settings(max_examples=300, deadline=None)
@given(
    encoding=st.sampled_from([*conversions.SUPPORTED_ENCODINGS, "", "32FC1", "RGB8"]),
    width=st.integers(0, 7),
    height=st.integers(0, 7),
    pixel_bytes=st.sampled_from([0, 1, 2, 3, 4, 6, 8]),
    padding=st.integers(0, 3),
    surplus=st.sampled_from([0, 0, 0, -1, 1]),
    big_endian=st.booleans(),
)
def test_any_image_is_converted_or_refused(encoding, width, height, pixel_bytes, padding, surplus, big_endian):
    step = width * pixel_bytes + padding
    msg = Image(width=width, height=height, encoding=encoding, step=step, is_bigendian=int(big_endian))
    rows = height * 3 // 2 if encoding in ("nv12", "nv21") else height
    msg.data.frombytes(bytes(max(rows * step + surplus, 0)))
    try:
        image = conversions.image_to_array(msg)
    except InvalidImageError as error:
        assert str(error)
    else:
        assert len(msg.data) == rows * step and image.shape == (height, width, 3) and image.dtype == np.uint8


# cv_bridge ------------------------------------------------------------------------------------------------------------


CV_BRIDGE_CHANNELS = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "mono": 1, **{f"bayer_{name}": 1 for name in BAYER}}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("encoding", "dtype", "channels"),
    [
        *((f"{name}8", np.uint8, channels) for name, channels in CV_BRIDGE_CHANNELS.items()),
        *((f"{name}16", np.uint16, channels) for name, channels in CV_BRIDGE_CHANNELS.items()),
        ("yuv422", np.uint8, 2),
        ("yuv422_yuy2", np.uint8, 2),
    ],
)
def test_equal_to_cv_bridge(encoding, dtype, channels, padded):
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    shape = (24, 32) if channels == 1 else (24, 32, channels)
    pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    # cv_bridge reads a padded row as whole pixels: its padding can be no other.
    msg = message(pixels, encoding, padding=2 * channels * pixels.itemsize if padded else 0)
    expected = cv_bridge.CvBridge().imgmsg_to_cv2(msg, "rgb8")
    np.testing.assert_array_equal(conversions.image_to_array(msg), expected)


def test_messages_equal_those_of_cv_bridge():
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    for pixels, encoding in ((photo(), "rgb8"), (gray(photo()), "mono8"), (wide(gray(photo())), "mono16")):
        assert conversions.array_to_image(pixels, encoding, HEADER) == cv_bridge.CvBridge().cv2_to_imgmsg(
            pixels, encoding, HEADER
        )


# Compressed -----------------------------------------------------------------------------------------------------------


def compressed(image: np.ndarray, extension: str = ".png", format: str = "png") -> CompressedImage:
    """`image` as it lies in the file: BGR unless the format says otherwise."""
    msg = CompressedImage(header=HEADER, format=format)
    msg.data.frombytes(cv2.imencode(extension, image)[1].tobytes())
    return msg


def test_compressed_colours_by_format():
    image = photo()
    bgr = np.ascontiguousarray(image[..., ::-1])
    for format in ("png", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8"):
        np.testing.assert_array_equal(conversions.compressed_to_array(compressed(bgr, format=format)), image)
    np.testing.assert_array_equal(
        conversions.compressed_to_array(compressed(image, format="rgb8; png compressed rgb8")), image
    )
    mono = compressed(gray(image), format="mono8; png compressed mono8")
    np.testing.assert_array_equal(conversions.compressed_to_array(mono)[..., 1], gray(image))
    jpeg = conversions.compressed_to_array(compressed(bgr, ".jpg", "rgb8; jpeg compressed bgr8"))
    assert np.abs(jpeg.astype(int) - image).mean() < 5


def test_compressed_image_of_a_real_camera(shared_data):
    path = shared_data / "images" / "manipulation.jpg"
    msg = CompressedImage(format="jpeg")
    msg.data.frombytes(path.read_bytes())
    image = conversions.compressed_to_array(msg)
    np.testing.assert_array_equal(image[..., ::-1], cv2.imread(str(path)))


def test_exif_orientation_is_ignored():
    """A camera's header says where its pixels are; turning them would part the image from its camera_info."""
    msg = compressed(photo(), ".jpg", "jpeg")
    tiff = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"  # orientation 6: turn
    app1 = b"\xff\xe1" + (8 + len(tiff)).to_bytes(2, "big") + b"Exif\0\0" + tiff
    turned = CompressedImage(format="jpeg")
    turned.data.frombytes(bytes(msg.data[:2]) + app1 + bytes(msg.data[2:]))
    assert cv2.imdecode(np.frombuffer(turned.data, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (64, 48)
    np.testing.assert_array_equal(conversions.compressed_to_array(turned), conversions.compressed_to_array(msg))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes: it cannot be decoded"),
        (b"not an image", "12 bytes: it cannot be decoded"),
        (bytes(compressed(photo(480, 640), ".jpg").data[:4000]), "4000 bytes: it ends in the middle"),
        (bytes(compressed(photo(480, 640), ".png").data[:60]), "60 bytes: it cannot be decoded"),
        (bytes(compressed(np.zeros((1, 9, 3), np.uint8), ".png").data), "9 x 1"),
    ],
    ids=["empty", "text", "jpeg-cut-off", "png-cut-off", "one-row"],
)
def test_corrupt_compressed_images_are_refused(data, reason):
    msg = CompressedImage(format="jpeg")
    msg.data.frombytes(data)
    with pytest.raises(InvalidImageError, match=f"compressed image with format 'jpeg' and .*{reason}"):
        conversions.compressed_to_array(msg)


def test_a_compressed_depth_topic_is_named():
    with pytest.raises(InvalidImageError, match="depth"):
        conversions.compressed_to_array(CompressedImage(format="16UC1; compressedDepth png"))


# Depth ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("big_endian", [False, True])
def test_depth_by_rep_118(big_endian):
    metres = np.array([[0.5, np.nan, np.inf], [-np.inf, 0.0, 3.25]], np.float32)
    expected = np.array([[0.5, np.nan, np.nan], [np.nan, np.nan, 3.25]], np.float32)
    got = conversions.depth_to_array(message(metres, "32FC1", padding=3, big_endian=big_endian))
    np.testing.assert_array_equal(got, expected)
    millimetres = np.array([[500, 0, 0], [0, 0, 3250]], np.uint16)
    for encoding in ("16UC1", "mono16"):
        got = conversions.depth_to_array(message(millimetres, encoding, padding=3, big_endian=big_endian))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_depth_of_a_colour_topic_is_refused():
    with pytest.raises(InvalidImageError, match=r"'rgb8'.*32FC1"):
        conversions.depth_to_array(message(photo(), "rgb8"))


# Images out -----------------------------------------------------------------------------------------------------------


def test_images_out_come_back_the_same():
    image = photo()
    for pixels, encoding in ((image, "rgb8"), (image[..., ::-1], "bgr8"), (image[::2, 1::3], "rgb8")):
        msg = conversions.array_to_image(pixels, encoding, HEADER)
        assert msg.header == HEADER and msg.step == pixels.shape[1] * 3
        expected = pixels if encoding == "rgb8" else pixels[..., ::-1]
        np.testing.assert_array_equal(conversions.image_to_array(msg), expected)
    labels = np.arange(12, dtype=np.uint16).reshape(3, 4).T
    msg = conversions.array_to_image(labels, "mono16", HEADER)
    assert bytes(msg.data) == labels.tobytes() and msg.is_bigendian == (sys.byteorder == "big")


@pytest.mark.parametrize(
    ("pixels", "encoding"),
    [(photo(), "mono8"), (photo().astype(np.uint16), "rgb8"), (photo()[..., :2], "bgr8"), (photo()[..., 0], "mono16")],
)
def test_pixels_that_are_not_of_the_encoding_are_refused(pixels, encoding):
    with pytest.raises(ValueError, match=encoding):
        conversions.array_to_image(pixels, encoding, HEADER)


# Boxes and reasoning --------------------------------------------------------------------------------------------------


@given(st.tuples(*[st.floats(0.5, 4000)] * 4))
def test_boxes_round_trip(values):
    box = Box.from_xywh(*values)
    assert np.allclose(conversions.msg_to_box(conversions.box_to_msg(box)).as_tuple(), box.as_tuple())


@pytest.mark.parametrize(
    "values",
    [(5, 5, 0, 3), (5, 5, 3, -1), (float("nan"), 5, 3, 3), (5, 5, float("inf"), 3), (1e308, 5, 1.7e308, 3)],
)
def test_unusable_boxes_are_refused(values):
    names = ("center_x", "center_y", "size_x", "size_y")
    with pytest.raises(InvalidInstructionError, match="box to follow"):
        conversions.msg_to_box(rsvp_msgs.BoundingBox2D(**dict(zip(names, map(float, values), strict=True))))


def sent(msg):
    """The message after the wire."""
    return deserialize_message(serialize_message(msg), type(msg))


REASONING = types.Reasoning(
    instruction="剪断绳子的东西",
    proposals=(
        types.RegionProposal(
            Box(10, 20, 40, 60), "scissors", ("orange handle", "left"), (2, 3), (1, 2, 3), 0.75, "它们能剪"
        ),
    ),
    steps=(types.ReasoningStep("target", "Something that cuts."), types.ReasoningStep("presence", "yes")),
    raw_text="{}",
    model="a-vlm",
    duration_s=2.25,
    prompt_tokens=900,
    completion_tokens=80,
)


def test_reasoning_arrives_whole():
    msg = sent(conversions.reasoning_to_msg(REASONING, HEADER))
    assert msg.header == HEADER and msg.complete and msg.found and msg.error_code == 0
    assert msg.instruction == "剪断绳子的东西" and [s.name for s in msg.steps] == ["target", "presence"]
    assert (msg.duration.sec, msg.duration.nanosec) == (2, 250_000_000)
    assert (msg.prompt_tokens, msg.completion_tokens, msg.model) == (900, 80, "a-vlm")
    proposal = msg.proposals[0]
    assert conversions.msg_to_box(proposal.bbox) == Box(10, 20, 40, 60)
    assert (list(proposal.rows), list(proposal.columns), proposal.score) == ([2, 3], [1, 2, 3], 0.75)
    assert (proposal.class_name, proposal.attributes, proposal.reason) == (
        "scissors",
        ["orange handle", "left"],
        "它们能剪",
    )


def test_unfinished_and_failed_reasoning_claims_nothing():
    streaming = conversions.reasoning_to_msg(REASONING, HEADER, complete=False)
    assert not streaming.complete and not streaming.found
    failed = sent(conversions.reasoning_to_msg(REASONING, HEADER, error=ServerTimeoutError("no answer in 30 s")))
    assert failed.complete and not failed.found and failed.error_code == ServerTimeoutError.code
    assert failed.error_msg == "no answer in 30 s"
    absent = conversions.reasoning_to_msg(types.Reasoning("a unicorn"), HEADER)
    assert absent.complete and not absent.found and absent.error_code == 0


def test_what_was_proposed_and_is_not_seen_is_not_found():
    msg = sent(conversions.reasoning_to_msg(REASONING, HEADER, unseen="the segmenter sees it nowhere"))
    assert msg.complete and not msg.found and msg.proposals
    assert (msg.error_code, msg.error_msg) == (FindTarget.Result.NOT_FOUND, "the segmenter sees it nowhere")


def test_text_that_a_ros_string_cannot_carry():
    """Small models do write these: half an emoji at the end of a token, a NUL."""
    reasoning = types.Reasoning("a\0b", raw_text="half \ud83d", steps=(types.ReasoningStep("reason", "\udc00 x"),))
    msg = sent(conversions.reasoning_to_msg(reasoning, HEADER))
    assert (msg.instruction, msg.raw_text, msg.steps[0].text) == ("ab", "half ?", "? x")


# Targets --------------------------------------------------------------------------------------------------------------


def disc(center: tuple[int, int], radius: int, height: int = 120, width: int = 160) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2


def tracked(id: int, mask: np.ndarray, **fields) -> types.Target:
    return types.Target(
        id,
        "cup",
        "cup, red",
        types.TargetState.TRACKING,
        mask_to_box(mask),
        mask,
        0.875,
        0.5,
        instruction="drink",
        age_ns=1_500_000_000,
        **fields,
    )


def test_targets_arrive_with_their_masks():
    masks = [disc((30, 40), 12), disc((155, 118), 20)]  # the second one reaches over two borders
    occluded = types.Target(9, "pen", "pen", types.TargetState.OCCLUDED, Box(-5, 3.5, 10, 20), None, 0.1, 0.2)
    frame = types.Frame(np.zeros((120, 160, 3), np.uint8), 12_000_000_345)
    result = types.TargetsInFrame(frame, (tracked(1, masks[0]), tracked(65535, masks[1]), occluded), 0.0125)
    msg = sent(conversions.targets_to_msg(result, HEADER))
    assert (msg.header, msg.image_width, msg.image_height) == (HEADER, 160, 120)
    assert msg.segmenter_duration.nanosec == 12_500_000
    for target, mask in zip(msg.targets, masks, strict=False):
        np.testing.assert_array_equal(conversions.mask_from_msg(target, 120, 160), mask)
        assert set(target.mask.data) == {0, 255} and target.mask.header == HEADER
        assert (target.mask.width, target.mask.height) == (target.mask_roi.width, target.mask_roi.height)
        assert target.mask.encoding == "mono8" and target.mask.step == target.mask.width
        assert conversions.msg_to_box(target.bbox) == mask_to_box(mask)
        assert len(target.mask.data) < mask.size / 4
    first, last = msg.targets[0], msg.targets[2]
    assert (first.id, first.class_name, first.description, first.instruction) == (1, "cup", "cup, red", "drink")
    assert (first.state, first.score, first.presence) == (rsvp_msgs.Target.STATE_TRACKING, 0.875, 0.5)
    assert (first.age.sec, first.age.nanosec) == (1, 500_000_000)
    assert last.state == rsvp_msgs.Target.STATE_OCCLUDED and not last.mask.data and last.mask_roi.width == 0
    assert conversions.msg_to_box(last.bbox) == Box(-5, 3.5, 10, 20)
    assert not conversions.mask_from_msg(last, 120, 160).any()


def test_target_states_are_those_of_the_message():
    for state in types.TargetState:
        assert getattr(rsvp_msgs.Target, f"STATE_{state.name}") == state


def test_masks_that_do_not_fit_are_refused():
    msg = conversions.target_to_msg(tracked(3, disc((30, 40), 12)), HEADER)
    with pytest.raises(InvalidImageError, match=r"target 3: .*40 x 40"):
        conversions.mask_from_msg(msg, 40, 40)
    msg.mask_roi.width += 1
    with pytest.raises(InvalidImageError, match="mask_roi"):
        conversions.mask_from_msg(msg, 120, 160)


def test_label_image_shows_the_smaller_target_where_two_overlap():
    large, small = disc((60, 60), 40), disc((70, 60), 10)
    labels = conversions.label_image([tracked(300, small), tracked(2, large)], 120, 160)
    assert labels.dtype == np.uint16
    expected = np.where(small, 300, np.where(large, 2, 0))
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(conversions.label_image([tracked(2, large), tracked(300, small)], 120, 160), expected)
    assert not conversions.label_image([], 4, 5).any()
