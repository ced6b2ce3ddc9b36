"""Clips as rosbag2 bags (MCAP): written and read without ROS, played by `ros2 bag play` and by `tabletop_camera`.

The topics are those that launch/rsvp.launch.py listens to by default, so

    ros2 launch rsvp_ros rsvp.launch.py image_transport:=compressed use_3d:=true
    ros2 bag play BAG

need no remapping. The metadata has rosbag2's version 8, which every ROS 2 from Humble on reads.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.geometry import Box
from rsvp_ros.tabletop.rotations import matrix_of, quaternion_of
from rsvp_ros.tabletop.view import Camera, ObjectView, View

DEMO_CLIP = Path(__file__).with_name("data") / "demo_clip"
"""A clip that comes with the package; demo_clip.py tells what happens in it."""

WORLD_FRAME = "world"
OPTICAL_FRAME = "camera_color_optical_frame"
"""Frame of the images: the child of WORLD_FRAME in tf."""

IMAGE_TOPIC = "/camera/color/image_raw"
COMPRESSED_TOPIC = f"{IMAGE_TOPIC}/compressed"
DEPTH_TOPIC = "/camera/aligned_depth_to_color/image_raw"
INFO_TOPICS = ("/camera/color/camera_info", "/camera/aligned_depth_to_color/camera_info")
LABEL_TOPIC = "/camera/ground_truth/label_image"
"""mono16: in each pixel the id of the object that is seen there, 0 for none."""
OBJECTS_TOPIC = "/camera/ground_truth/objects"
"""std_msgs/String: all that is known of the objects in one image, as JSON (`objects_to_json`)."""
INSTRUCTION_TOPIC = "/rsvp/instruction"
TF_TOPIC = "/tf"
START_NS = 10**9
"""The stamp of a clip's first image: to ROS, 0 means no stamp at all."""

_PENDING = 30  # images kept until their other messages come, in a bag that was recorded out of order


@dataclass(frozen=True)
class TimedInstruction:
    """Something said while the camera runs."""

    stamp_ns: int
    text: str


def write_bag(
    path: Path | str,
    views: Iterable[View],
    instructions: Iterable[TimedInstruction] = (),
    *,
    jpeg_quality: int | None = None,
    depth: str | None = "16UC1",
    ground_truth: bool = True,
) -> Path:
    """Write a clip as a rosbag2 folder; if that fails, nothing is left behind.

    Args:
        path: the folder to make; its parents are made too.
        views: in the order of their stamps, which must differ; all of one size.
        instructions: published on INSTRUCTION_TOPIC at their times.
        jpeg_quality: 1 to 100: JPEG on COMPRESSED_TOPIC; None: rgb8 on IMAGE_TOPIC, without loss.
        depth: "16UC1" (millimetres, rounded), "32FC1" (metres, without loss) or None, for no depth.
        ground_truth: whether to write LABEL_TOPIC and OBJECTS_TOPIC.

    Returns the folder. Raises ConfigurationError if an option is invalid, or the folder exists already or cannot be
    written, and ValueError if stamps do not ascend or there is no view.
    """
    path = Path(path).absolute()
    if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
        raise ConfigurationError(f"JPEG quality is 1 to 100, got {jpeg_quality}")
    if depth not in ("16UC1", "32FC1", None):
        raise ConfigurationError(f"depth is written as 16UC1, as 32FC1 or not at all, got {depth!r}")
    if path.exists():
        raise ConfigurationError(f"{path} exists already: remove it, or give the bag another name")
    rosbag2 = _rosbag2()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The bag's file is named after its folder, so the folder has its final name from the start.
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            bag = rosbag2.Writer(aside / path.name, version=8, storage_plugin=rosbag2.StoragePlugin.MCAP)
            # MCAP's own compression, which every MCAP reader undoes; to rosbag2 the bag is not compressed.
            bag.set_compression(rosbag2.CompressionMode.STORAGE, rosbag2.CompressionFormat.ZSTD)
            with bag as writer:
                _Messages(writer, jpeg_quality, depth, ground_truth).write(views, instructions)
            (aside / path.name).rename(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise ConfigurationError(f"the bag {path} cannot be written: {error.strerror or error}") from error
    return path


def read_bag(path: Path | str) -> Iterator[View]:
    """The views of a bag with the topics above, in the order of their stamps.

    What a bag has no topic for is empty in its views: depth is NaN, no ids, no objects. Without tf in the bag, the
    camera is at the world's origin. Views that lack one of the messages that the others have are left out.

    Raises ConfigurationError: at the first view if there is no bag, later if the bag breaks off.
    """
    with _opened(path) as (reader, types):
        by_topic = {connection.topic: connection for connection in reader.connections}
        color = COMPRESSED_TOPIC if COMPRESSED_TOPIC in by_topic else IMAGE_TOPIC
        wanted = {color, INFO_TOPICS[0], DEPTH_TOPIC, LABEL_TOPIC, OBJECTS_TOPIC, TF_TOPIC} & set(by_topic)
        missing = {color, INFO_TOPICS[0]} - wanted
        if missing:
            raise ConfigurationError(
                f"the bag {path} has no {' and no '.join(sorted(missing))}, but {', '.join(sorted(by_topic))}: "
                "remap its topics (`ros2 bag convert`, or record it again), or write one with `rsvp tabletop bag`"
            )
        pending: dict[int, dict] = {}
        for connection, _, data in reader.messages([by_topic[topic] for topic in wanted]):
            message = types.deserialize_cdr(data, connection.msgtype)
            stamp = _stamp(connection.topic, message)
            if stamp is None:
                continue
            parts = pending.setdefault(stamp, {})
            parts[connection.topic] = message
            if parts.keys() == wanted:
                yield _view(stamp, pending.pop(stamp), color)
            elif len(pending) > _PENDING:
                del pending[min(pending)]


def read_instructions(path: Path | str) -> list[TimedInstruction]:
    """The instructions in a bag. Raises ConfigurationError."""
    with _opened(path) as (reader, types):
        connections = [c for c in reader.connections if c.topic == INSTRUCTION_TOPIC]
        if not connections:
            return []
        return [
            TimedInstruction(stamp, types.deserialize_cdr(data, connection.msgtype).data)
            for connection, stamp, data in reader.messages(connections)
        ]


# The truth in words ---------------------------------------------------------------------------------------------------


def objects_to_json(view: View, stamp_ns: int | None = None) -> str:
    """All that a view knows about its objects, except the pixels; `stamp_ns` replaces the view's own.

    {"stamp_ns", "table": [x, y], "objects": [{"id", "kind", "color", "pattern", "material", "dimensions", "upright",
    "world_from_object": the upper 3 rows of the matrix, "box": [x0, y0, x1, y1] or null, "area", "visible", "inside"}]}
    in metres and pixels, every number in full precision.
    """
    objects = [
        {
            "id": o.id,
            "kind": o.kind,
            "color": o.color,
            "pattern": o.pattern,
            "material": o.material,
            "dimensions": [float(side) for side in o.dimensions],
            "upright": bool(o.upright),
            "world_from_object": np.asarray(o.world_from_object, np.float64)[:3].ravel().tolist(),
            "box": list(o.box.as_tuple()) if o.box is not None else None,
            "area": int(o.area),
            "visible": float(o.visible),
            "inside": float(o.inside),
        }
        for o in view.objects
    ]
    stamp = view.stamp_ns if stamp_ns is None else stamp_ns
    return json.dumps({"stamp_ns": stamp, "table": list(map(float, view.table)), "objects": objects})


def objects_from_json(text: str) -> tuple[tuple[ObjectView, ...], tuple[float, float]]:
    """The objects and the table's size."""
    scene = json.loads(text)
    objects = []
    for fields in scene["objects"]:
        pose = np.vstack((np.reshape(fields.pop("world_from_object"), (3, 4)), [0.0, 0.0, 0.0, 1.0]))
        box = fields.pop("box")
        dimensions = tuple(fields.pop("dimensions"))
        objects.append(
            ObjectView(dimensions=dimensions, world_from_object=pose, box=Box(*box) if box else None, **fields)
        )
    return tuple(objects), tuple(scene["table"])


# Messages out ---------------------------------------------------------------------------------------------------------


class _Messages:
    """Turns views into messages and puts them into an open writer."""

    def __init__(self, writer, jpeg_quality: int | None, depth: str | None, ground_truth: bool) -> None:
        self._writer = writer
        self._types = _typestore()
        self._jpeg_quality, self._depth, self._ground_truth = jpeg_quality, depth, ground_truth
        self._connections: dict[str, object] = {}

    def write(self, views: Iterable[View], instructions: Iterable[TimedInstruction]) -> None:
        said = sorted(instructions, key=lambda instruction: instruction.stamp_ns)
        last, size = -1, None
        for view in views:
            if view.stamp_ns <= last:
                raise ValueError(f"stamps must ascend: {view.stamp_ns} ns comes after {last} ns")
            if size not in (None, view.image.shape):
                raise ValueError(f"all images of a clip have one size: {view.image.shape} comes after {size}")
            last, size = view.stamp_ns, view.image.shape
            while said and said[0].stamp_ns <= last:
                self._say(said.pop(0))
            self._write_view(view)
        if size is None:
            raise ValueError("a clip needs at least one view")
        for instruction in said:
            self._say(instruction)

    def _say(self, instruction: TimedInstruction) -> None:
        message = self._make("std_msgs/msg/String", data=instruction.text)
        self._put(INSTRUCTION_TOPIC, "std_msgs/msg/String", instruction.stamp_ns, message)

    def _write_view(self, view: View) -> None:
        stamp = view.stamp_ns
        time = self._make(
            "builtin_interfaces/msg/Time", **dict(zip(("sec", "nanosec"), divmod(stamp, 10**9), strict=True))
        )
        header = self._make("std_msgs/msg/Header", stamp=time, frame_id=OPTICAL_FRAME)
        self._put(TF_TOPIC, "tf2_msgs/msg/TFMessage", stamp, self._transform(view, time))
        info = self._camera_info(view.camera, header)
        for topic in INFO_TOPICS if self._depth else INFO_TOPICS[:1]:
            self._put(topic, "sensor_msgs/msg/CameraInfo", stamp, info)
        if self._depth:
            depth = view.depth if self._depth == "32FC1" else to_millimetres(view.depth)
            self._put_image(DEPTH_TOPIC, depth, self._depth, header, stamp)
        if self._ground_truth:
            self._put_image(LABEL_TOPIC, view.ids.astype(np.uint16), "mono16", header, stamp)
            message = self._make("std_msgs/msg/String", data=objects_to_json(view))
            self._put(OBJECTS_TOPIC, "std_msgs/msg/String", stamp, message)
        if self._jpeg_quality is None:
            self._put_image(IMAGE_TOPIC, view.image, "rgb8", header, stamp)
        else:
            done, jpeg = cv2.imencode(".jpg", view.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self._jpeg_quality])
            assert done, "OpenCV encodes every image of 8 bits"
            message = self._make(
                "sensor_msgs/msg/CompressedImage", header=header, format="rgb8; jpeg compressed bgr8", data=jpeg
            )
            self._put(COMPRESSED_TOPIC, "sensor_msgs/msg/CompressedImage", stamp, message)

    def _transform(self, view: View, time):
        pose = view.camera.world_from_optical
        w, x, y, z = quaternion_of(pose[:3, :3])
        transform = self._make(
            "geometry_msgs/msg/Transform",
            translation=self._make("geometry_msgs/msg/Vector3", x=pose[0, 3], y=pose[1, 3], z=pose[2, 3]),
            rotation=self._make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w),
        )
        stamped = self._make(
            "geometry_msgs/msg/TransformStamped",
            header=self._make("std_msgs/msg/Header", stamp=time, frame_id=WORLD_FRAME),
            child_frame_id=OPTICAL_FRAME,
            transform=transform,
        )
        return self._make("tf2_msgs/msg/TFMessage", transforms=[stamped])

    def _camera_info(self, camera: Camera, header):
        k = camera.matrix
        roi = self._make(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._make(
            "sensor_msgs/msg/CameraInfo",
            header=header,
            height=camera.height,
            width=camera.width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=k.ravel(),
            r=np.eye(3).ravel(),
            p=np.hstack((k, np.zeros((3, 1)))).ravel(),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )

    def _put_image(self, topic: str, pixels: np.ndarray, encoding: str, header, stamp: int) -> None:
        data = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<"), copy=False)
        message = self._make(
            "sensor_msgs/msg/Image",
            header=header,
            height=data.shape[0],
            width=data.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=data.strides[0],
            data=data.reshape(-1).view(np.uint8),
        )
        self._put(topic, "sensor_msgs/msg/Image", stamp, message)

    def _make(self, name: str, **fields):
        return self._types.types[name](**fields)

    def _put(self, topic: str, name: str, stamp: int, message) -> None:
        if topic not in self._connections:
            qos = _reliable(depth=100 if topic == TF_TOPIC else 10)
            self._connections[topic] = self._writer.add_connection(
                topic, name, typestore=self._types, offered_qos_profiles=[qos]
            )
        self._writer.write(self._connections[topic], stamp, self._types.serialize_cdr(message, name))


def to_millimetres(depth: np.ndarray) -> np.ndarray:
    """A depth image as 16UC1: millimetres, 0 where there is no depth or where it is too large for 16 bits."""
    millimetres = np.rint(np.nan_to_num(depth, nan=0.0, posinf=0.0, neginf=0.0) * 1000.0)
    return np.where((millimetres > 0) & (millimetres <= 65535), millimetres, 0).astype(np.uint16)


# Messages in ----------------------------------------------------------------------------------------------------------


def _stamp(topic: str, message) -> int | None:
    """The time of the image that a message belongs to; None if it belongs to none."""
    if topic == OBJECTS_TOPIC:
        return json.loads(message.data)["stamp_ns"]
    if topic == TF_TOPIC:
        stamped = [t for t in message.transforms if t.child_frame_id == OPTICAL_FRAME]
        if not stamped:
            return None
        message = stamped[0]
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def _view(stamp: int, parts: dict, color: str) -> View:
    info = parts[INFO_TOPICS[0]]
    pose = np.eye(4)
    if TF_TOPIC in parts:
        transform = next(t for t in parts[TF_TOPIC].transforms if t.child_frame_id == OPTICAL_FRAME).transform
        rotation, translation = transform.rotation, transform.translation
        pose[:3, :3] = matrix_of((rotation.w, rotation.x, rotation.y, rotation.z))
        pose[:3, 3] = translation.x, translation.y, translation.z
    camera = Camera(info.width, info.height, float(info.k[0]), pose)
    if not np.allclose(np.reshape(info.k, (3, 3)), camera.matrix, atol=0.01) or np.any(info.d):
        raise ConfigurationError(
            "the bag is of a camera that the tabletop world has not (its principal point is not the image's middle, or "
            "its lens distorts): play it with `ros2 bag play`"
        )
    objects, table = objects_from_json(parts[OBJECTS_TOPIC].data) if OBJECTS_TOPIC in parts else ((), (0.0, 0.0))
    depth, ids = parts.get(DEPTH_TOPIC), parts.get(LABEL_TOPIC)
    empty = np.zeros((info.height, info.width), np.uint8)
    return View(
        image=_color(parts[color]),
        depth=_metres(depth) if depth is not None else np.full(empty.shape, np.nan, np.float32),
        ids=_pixels(ids).astype(np.uint8) if ids is not None else empty,
        camera=camera,
        objects=objects,
        table=table,
        stamp_ns=stamp,
    )


def _color(message) -> np.ndarray:
    if hasattr(message, "format"):
        image = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
        if image is None:
            raise ConfigurationError("the bag holds a compressed image that cannot be decoded: write it again")
        return np.ascontiguousarray(image[..., ::-1])
    return _pixels(message)


def _metres(message) -> np.ndarray:
    depth = _pixels(message)
    if depth.dtype == np.float32:
        return depth
    metres = depth * np.float32(0.001)
    metres[depth == 0] = np.nan
    return metres


_ENCODINGS = {"rgb8": (np.uint8, 3), "bgr8": (np.uint8, 3), "mono16": ("u2", 1), "16UC1": ("u2", 1), "32FC1": ("f4", 1)}


def _pixels(message) -> np.ndarray:
    """An image message's pixels, H x W (x 3), as a copy: RGB, in this machine's byte order."""
    if message.encoding not in _ENCODINGS:
        raise ConfigurationError(
            f"the bag has images of encoding {message.encoding!r}; {', '.join(_ENCODINGS)} can be read"
        )
    kind, channels = _ENCODINGS[message.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    row = message.width * channels * dtype.itemsize
    data = np.reshape(message.data, (message.height, message.step))[:, :row].copy().view(dtype)
    data = data.astype(dtype.newbyteorder("="), copy=False)
    if channels == 1:
        return data
    data = data.reshape(message.height, message.width, channels)
    return np.ascontiguousarray(data[..., ::-1]) if message.encoding == "bgr8" else data


@contextmanager
def _opened(path: Path | str):
    """A reader of the bag and the types of its messages; anything wrong with its bytes raises ConfigurationError."""
    path = Path(path)
    if not path.exists():
        raise ConfigurationError(f"there is no bag {path}: write one with `rsvp tabletop bag`, or correct the path")
    if not (path / "metadata.yaml").is_file():
        raise ConfigurationError(
            f"{path} is no bag: give the folder that holds metadata.yaml (`ros2 bag reindex` makes one that is lost)"
        )
    rosbag2 = _rosbag2()
    try:
        with rosbag2.Reader(path) as reader:
            yield reader, _typestore()
    except ConfigurationError:
        raise
    except Exception as error:
        # Broken bytes can raise anything: struct.error, a failed assertion, zstd's and YAML's own errors.
        raise ConfigurationError(
            f"the bag {path} is broken ({type(error).__name__}: {error}): write or copy it again"
        ) from error


def _reliable(depth: int):
    """The QoS that camera drivers offer: readers that ask for best effort can connect to it too."""
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    forever = QosTime(9223372036, 854775807)  # RMW_DURATION_INFINITE
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE,
        QosDurability.VOLATILE,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )


@lru_cache
def _typestore():
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_HUMBLE)


def _rosbag2():
    try:
        from rosbags import rosbag2
    except ImportError as error:
        raise ConfigurationError(
            f"bags need the Python package rosbags, which is not installed ({error}): pip install 'rsvp_ros[sim]'"
        ) from error
    return rosbag2
