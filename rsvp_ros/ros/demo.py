"""`make demo`: the real node, a camera that films a drawn tabletop, and what the node made of it, as a video.

    python -m rsvp_ros.ros.demo [--out out/demo] [--seconds 12] [--params-file config/embedded.yaml]

The node runs in a process of its own. This process is the camera and the robot program: it
gives a box for each of the two things that move, as a click in RViz would. It knows the true masks, and says how well
the node's agree with them. Exit status 0 only where both were found and one of
them, at least, was followed for most of the time.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import rclpy
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from rsvp_ros.errors import RsvpError
from rsvp_ros.geometry import mask_iou, mask_to_box
from rsvp_ros.msg import Target, TargetArray
from rsvp_ros.ros.client import Client
from rsvp_ros.ros.conversions import array_to_image, image_to_array, mask_from_msg, time_to_ns
from rsvp_ros.ros.demo_scene import HEIGHT, WIDTH, DemoScene, Shot
from rsvp_ros.ros.fastdds import PROFILES_VARIABLE
from rsvp_ros.types import TargetState
from rsvp_ros.visualization import INK, PAPER, target_color

RATE_HZ = 10
NAMESPACE = "rsvp"
CONFIG = Path(get_package_share_directory("rsvp_ros")) / "config"
START_UP_S = 180.0
"""The node may need this long until it is active: on a slow disk torch alone takes a minute."""
CLICKS_AT_S = 0.5
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
IN_SIGHT, HIDDEN = 0.5, 0.1
"""At least this share of a thing's pixels is visible; at most this one."""
ON_IT = 0.5
"""A mask with at least this IoU is on the thing."""


class DemoError(Exception):
    """The demo cannot go on; the message is for the person who started it."""


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C, and its like, wait for the end of the block: raises KeyboardInterrupt there."""
    held: list[int] = []
    previous = {number: signal.signal(number, lambda number, _: held.append(number)) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if held:
        raise KeyboardInterrupt


class _Worker:
    """Does the work in a thread of its own, so that Ctrl-C finds the main one waiting.

    In the midst of the work it may be raised in Python code that a C extension calls (rosidl's message constructors),
    which prints it and goes on.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Until the work is done; raises what it raised."""
        while self.thread.is_alive():
            self.thread.join(0.2)
        if self._error is not None:
            raise self._error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error


class NodeProcess:
    """`rsvp_node` with the parameters in a file, until `stop`."""

    def __init__(self, params_file: Path, log: Path) -> None:
        self._log = log
        executable = Path(get_package_prefix("rsvp_ros")) / "lib" / "rsvp_ros" / "rsvp_node"
        command = [sys.executable, str(executable), "--ros-args"]
        command += ["-r", f"__ns:=/{NAMESPACE}", "--params-file", str(params_file)]
        with log.open("w") as file:
            self.started = time.monotonic()
            # A session of its own: Ctrl-C in the terminal reaches the demo alone, which then ends the node in order.
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Raises DemoError where the node ends before the condition holds, or where that takes too long."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            status = self._process.poll()
            if status is not None:
                raise DemoError(f"rsvp_node ended by itself with status {status}")
            if time.monotonic() > deadline:
                raise DemoError(f"{what} within {timeout_s:g} s")
            time.sleep(0.01)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """As Ctrl-C does; by force where that does not help."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Camera:
    """Shows the node the film, 10 pictures a second, and keeps what the node answers to each."""

    def __init__(self, film: list[Shot]) -> None:
        self.targets: dict[int, TargetArray] = {}
        """By the number of the picture."""
        self.overlays: dict[int, np.ndarray] = {}
        self.delays_s: dict[int, float] = {}
        """From a picture's stamp to the arrival of its targets."""
        self.position = -1
        """Number of the newest picture shown; -1: before the film, while its first picture stands still."""
        self.connected = False
        """Whether the node has answered with targets and an overlay."""
        self._film = film
        self._numbers: dict[int, int] = {}
        self._rolling, self._closed = threading.Event(), threading.Event()
        self._node = rclpy.create_node("camera", namespace=NAMESPACE)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._publisher = self._node.create_publisher(Image, "image_raw", best_effort)
        self._node.create_subscription(TargetArray, "targets", self._on_targets, 100)
        self._node.create_subscription(Image, "overlay", self._on_overlay, 100)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._executor.spin, self._run)]
        for thread in self._threads:
            thread.start()

    def roll(self) -> None:
        """Start the film."""
        self._rolling.set()

    @property
    def ended(self) -> bool:
        return self.position == len(self._film) - 1

    def number(self, stamp_ns: int) -> int:
        """The picture that carries this stamp."""
        return self._numbers[stamp_ns]

    def close(self) -> None:
        self._closed.set()
        self._executor.shutdown()
        for thread in self._threads:
            thread.join()
        self._node.destroy_node()

    def _run(self) -> None:
        due = time.monotonic()
        while not (self._closed.is_set() or self.ended):
            number = self.position + 1 if self._rolling.is_set() else -1
            message = array_to_image(self._film[max(number, 0)].image, "rgb8", Image().header)
            stamp = time.time_ns()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
            message.header.frame_id = "demo_camera_optical_frame"
            self._numbers[stamp] = number
            self._publisher.publish(message)
            self.position = number
            due += 1 / RATE_HZ
            self._closed.wait(max(due - time.monotonic(), 0.0))

    def _on_targets(self, message: TargetArray) -> None:
        now, stamp = time.time_ns(), time_to_ns(message.header.stamp)
        number = self._numbers.get(stamp, -1)
        if number >= 0:
            self.targets[number], self.delays_s[number] = message, (now - stamp) * 1e-9

    def _on_overlay(self, message: Image) -> None:
        self.connected = True
        number = self._numbers.get(time_to_ns(message.header.stamp), -1)
        if number >= 0:
            self.overlays[number] = image_to_array(message)


@dataclass
class Record:
    """How one thing was followed, in the answered pictures since it was found."""

    name: str
    id: int
    found_at: int
    """Number of the picture in which it was found."""
    in_sight: int = 0
    followed: int = 0
    """In sight, and the mask was on it."""
    hidden: int = 0
    noticed: int = 0
    """Hidden, and there was no mask."""
    ious: dict[int, float] = field(default_factory=dict)
    """Of every mask that the node gave, hidden or not, by the number of the picture."""

    def add(self, number: int, target: Target, shot: Shot) -> None:
        """What the node said of it in one picture."""
        tracked = target.state == TargetState.TRACKING
        if tracked:
            self.ious[number] = mask_iou(mask_from_msg(target, HEIGHT, WIDTH), shot.masks[self.name])
        if shot.visible[self.name] >= IN_SIGHT:
            self.in_sight += 1
            self.followed += self.ious.get(number, 0.0) >= ON_IT
        elif shot.visible[self.name] <= HIDDEN:
            self.hidden += 1
            self.noticed += not tracked

    @property
    def lost(self) -> bool:
        """Whether it was followed in less than half of the pictures in which it was in sight, or in none."""
        return self.followed * 2 < self.in_sight or not self.followed

    def __str__(self) -> str:
        text = f"{self.followed} of {self.in_sight} frames in which it is in sight"
        if self.hidden:
            text += f"; said to be hidden in {self.noticed} of {self.hidden}"
        return f"{text}; mean IoU {np.mean(list(self.ious.values())):.3f}" if self.ious else text


def find(client: Client, camera: Camera, film: list[Shot], name: str, keep_targets: bool) -> Record:
    """Give the node a box around a thing as it is in the newest picture. Raises DemoError where it is not found."""
    clicked = camera.position
    box = mask_to_box(film[clicked].masks[name])
    assert box is not None, "nothing is hidden when it is clicked on"
    try:
        result = client.follow(box, name, keep_targets=keep_targets)
    except (RsvpError, TimeoutError) as error:
        raise DemoError(f"find_target failed for the {name}: {error}") from error
    found = [target for target in result.targets if target.class_name == name]
    if not found:
        raise DemoError(f"the node did not find the {name} in its box: {result.error_msg}")
    print(
        f"  {clicked / RATE_HZ:4.1f} s  find_target with a box of {box.width:.0f} x {box.height:.0f} pixels on the "
        f"{name} -> target {found[0].id}, score {found[0].score:.2f}",
        flush=True,
    )
    return Record(name, found[0].id, camera.number(time_to_ns(result.header.stamp)))


def film_and_follow(node: NodeProcess, film: list[Shot]) -> tuple[Camera, list[Record]]:
    """Show the film to the node and have it follow both things. Raises DemoError."""
    first_click = round(CLICKS_AT_S * RATE_HZ)
    clicks = dict(zip(DemoScene.moving, (first_click, max(round(0.3 * len(film)), first_click + 5)), strict=True))
    with Client(NAMESPACE) as client:

        def active() -> bool:
            if "[ERROR]" in node.log:
                raise DemoError("rsvp_node reports an error")
            try:
                client.wait_until_active(0.2)
            except TimeoutError:
                return False
            return True

        node.wait_for(active, "rsvp_node did not become active", START_UP_S)
        took = time.monotonic() - node.started
        print(f"rsvp_node is active after {took:.0f} s; the camera films for {len(film) / RATE_HZ:g} s:", flush=True)
        camera = Camera(film)
        try:
            node.wait_for(lambda: camera.connected, "rsvp_node did not answer the first picture", 30.0)
            camera.roll()
            records = []
            for name, at in clicks.items():
                node.wait_for(lambda at=at: camera.position >= at, "the film did not go on", 60.0)
                records.append(find(client, camera, film, name, keep_targets=bool(records)))
            node.wait_for(lambda: camera.ended, "the film did not end", 60.0 + len(film) / RATE_HZ)
            # The last answers are on their way.
            deadline = time.monotonic() + 1.0
            while len(camera.overlays) < len(film) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            camera.close()
    for number, answer in sorted(camera.targets.items()):
        for record in records:
            for target in answer.targets:
                if target.id == record.id and number >= record.found_at:
                    record.add(number, target, film[number])
    return camera, records


# Pictures -------------------------------------------------------------------------------------------------------------

CAPTION_HEIGHT = 36
_STATE_NAMES = {state.value: state.name for state in TargetState}


def captioned(number: int, camera: Camera, film: list[Shot], records: list[Record]) -> np.ndarray:
    """The node's overlay of a picture, above a line with its time and the targets' states; uint8 RGB."""
    picture = camera.overlays.get(number)
    parts = [(f"{number / RATE_HZ:.1f} s", PAPER)]
    if picture is None:
        picture = film[number].image // 2
        parts.append(("no answer to this picture", PAPER))
    answer = camera.targets.get(number)
    for target in answer.targets if answer is not None else ():
        text = f"{target.class_name}  {_STATE_NAMES.get(target.state, 'UNKNOWN')}"
        iou = next((record.ious.get(number) for record in records if record.id == target.id), None)
        parts.append((text + (f"  IoU {iou:.2f}" if iou is not None else ""), target_color(target.id)))
    line = PilImage.new("RGB", (WIDTH, CAPTION_HEIGHT), INK)
    draw, font = ImageDraw.Draw(line), ImageFont.load_default(15)
    for (text, color), x in zip(parts, (14, 84, 364), strict=False):
        draw.text((x, CAPTION_HEIGHT / 2), text, fill=color, font=font, anchor="lm")
    return np.concatenate((picture, np.asarray(line)))


def write_video(path: Path, camera: Camera, film: list[Shot], records: list[Record]) -> None:
    """All pictures in their own time. Raises DemoError."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE_HZ, (WIDTH, HEIGHT + CAPTION_HEIGHT))
    if not video.isOpened():
        raise DemoError(f"OpenCV cannot write {path}: is the folder writable, and does its build have the codec mp4v?")
    for number in range(len(film)):
        video.write(captioned(number, camera, film, records)[..., ::-1])
    video.release()


def write_sheet(path: Path, camera: Camera, film: list[Shot], records: list[Record], hidden_at: int) -> None:
    """Six moments: found, both found, the arm comes, hidden, back again, the end. Raises DemoError."""
    first, second = (record.found_at for record in records)
    wanted = (first + 1, second + 1, hidden_at - RATE_HZ, hidden_at, hidden_at + 15, len(film) - 1)
    answered = np.array(sorted(camera.overlays))
    tiles = [captioned(int(answered[np.abs(answered - n).argmin()]), camera, film, records) for n in wanted]
    gap = 8
    tiles = [cv2.copyMakeBorder(tile, gap, 0, gap, 0, cv2.BORDER_CONSTANT, value=PAPER) for tile in tiles]
    sheet = np.concatenate([np.concatenate(tiles[:3], 1), np.concatenate(tiles[3:], 1)])
    sheet = cv2.copyMakeBorder(sheet, 0, gap, 0, gap, cv2.BORDER_CONSTANT, value=PAPER)
    write_picture(path, sheet)


def write_picture(path: Path, image: np.ndarray) -> None:
    """Raises DemoError."""
    if not cv2.imwrite(str(path), image[..., ::-1]):
        raise DemoError(f"{path} cannot be written: is the folder writable?")


# The way through ------------------------------------------------------------------------------------------------------


def run(out: Path, seconds: float, node: NodeProcess) -> None:
    """Everything but the node's start and end. Raises DemoError."""
    hidden_at_s = round(0.6 * seconds, 1)
    scene = DemoScene(hidden_at_s)
    film = [scene.render(number / RATE_HZ) for number in range(round(seconds * RATE_HZ))]
    write_picture(out / "scene.png", film[0].image)
    camera, records = film_and_follow(node, film)
    if not camera.overlays:
        raise DemoError("the node answered no picture of the film")
    write_video(out / "overlay.mp4", camera, film, records)
    write_sheet(out / "overlay.png", camera, film, records, round(hidden_at_s * RATE_HZ))
    ious = [iou for record in records for iou in record.ious.values()]
    in_sight, followed = (sum(getattr(record, name) for record in records) for name in ("in_sight", "followed"))
    print(f"\nframes answered   {len(camera.targets)} of {len(film)}, {WIDTH} x {HEIGHT} at {RATE_HZ} Hz")
    share = followed / max(in_sight, 1)
    print(f"followed          {share:.0%} of the targets in sight, frame by frame: with a mask of IoU >= {ON_IT:g}")
    for record in records:
        print(f"  {record.name:<16}{record}")
    if ious:
        print(f"mean IoU          {np.mean(ious):.3f} of all {len(ious)} masks with the drawn truth")
    print(f"image to targets  {np.median(list(camera.delays_s.values())) * 1e3:.0f} ms (median)\n")
    for name, what in (("overlay.mp4", "the video"), ("overlay.png", "six moments"), ("node.log", "the node's log")):
        print(f"{what:<16}  {out / name}")
    lost = [record.name for record in records if record.lost]
    if len(lost) == len(records):
        raise DemoError(f"nothing was followed: {' and '.join(lost)} were out of the masks for most of the time")
    if lost:
        print(f"\nThe {lost[0]} was lost on the way: the video shows when.")
    print(
        "\nHere boxes said what to follow. An instruction in words needs an MLLM, which this demo does without. With\n"
        "one on an OpenAI-compatible server (vLLM, Ollama, ...), its address written into config/server.yaml, try:\n"
        "    source .venv/bin/activate && source install/setup.bash\n"
        f'    rsvp segment {out / "scene.png"} "something to drink from" --config config/server.yaml\n'
        "and on a robot: ros2 launch rsvp_ros rsvp.launch.py params_file:=config/server.yaml"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="for the results (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of the film (default: %(default)s)")
    parser.add_argument(
        "--params-file",
        type=Path,
        default=CONFIG / "embedded.yaml",
        help="the node's parameters (default: embedded.yaml)",
    )
    options = parser.parse_args(arguments)
    if not options.params_file.is_file():
        parser.error(f"--params-file: there is no {options.params_file}")
    if not 5 <= options.seconds <= 120:
        parser.error("--seconds must be 5 to 120")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit status."""
    options = parse(arguments)
    out = options.out.resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"demo: {out} cannot be made: {error.strerror}. Choose another folder with --out.", file=sys.stderr)
        return 1
    print("A camera films a drawn tabletop; rsvp_node, in another process, follows a mug and a ball on it.")
    print(f"Takes about {options.seconds + 25:.0f} s on a CPU; leaves a video and pictures in {out}.\n", flush=True)
    # Whole images through shared memory, and nothing of other robots on the network.
    os.environ.setdefault(PROFILES_VARIABLE, str(CONFIG / "fastdds.xml"))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for number in INTERRUPTS:
        signal.signal(number, signal.default_int_handler)
    node: NodeProcess | None = None
    worker: _Worker | None = None
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        with interrupts_held():  # between the process's start and the moment in which we hold it
            node = NodeProcess(options.params_file, out / "node.log")
        worker = _Worker(lambda: run(out, options.seconds, node))
        worker.wait()
    except DemoError as error:
        print(f"\ndemo: {error}. The last lines of {out / 'node.log'}:", file=sys.stderr)
        print("\n".join(f"    {line}" for line in (node.log if node else "").splitlines()[-12:]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; nothing is left running.", file=sys.stderr)
        return 130
    finally:
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)  # the node is ended in any case
        if node is not None:
            node.stop()
        rclpy.try_shutdown()
        if worker is not None:
            worker.thread.join(10)  # what it was waiting for fails now
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # interrupted work leaves threads of rclpy behind, which do not survive an orderly end
