"""`make demo`: the real node, a clip of the tabletop as its camera, three instructions, and what the node made of them.

    python -m rsvp_ros.ros.demo [--out out/demo] [--seconds 8] [--params-file config/embedded.yaml]

The node runs in its own process. This process is both the camera, which plays the clip in the package, and the robot
program, which asks for three things, one after another. The clip holds the ground truth of each of its pictures, so the
demo can say whether the right thing was found, and how well it was followed. The exit status is 0 only if at least one
of the three was found, and followed for most of the time.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from ament_index_python.packages import get_package_share_directory
from rclpy.signals import SignalHandlerOptions

from rsvp_ros.errors import RsvpError
from rsvp_ros.ros.client import Client
from rsvp_ros.ros.demo.asking import ASKS, Answer, find
from rsvp_ros.ros.demo.camera import Camera, Film
from rsvp_ros.ros.demo.pictures import write_page, write_picture, write_sheet, write_video
from rsvp_ros.ros.demo.process import INTERRUPTS, NAMESPACE, DemoError, NodeProcess, Worker, interrupts_held
from rsvp_ros.ros.fastdds import PROFILES_VARIABLE
from rsvp_ros.tabletop.bag import DEMO_CLIP

CONFIG = Path(get_package_share_directory("rsvp_ros")) / "config"
START_UP_S = 180.0
"""The node may take this long to become active: on a slow disk torch alone takes a minute."""


def film_and_ask(node: NodeProcess, film: Film) -> tuple[Camera, list[Answer], str]:
    """Show the film to the node and ask for all things. The text says what became of the frames. Raises DemoError."""
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
        camera = Camera(film)
        try:
            node.wait_for(camera.greet, "rsvp_node did not answer the first picture", 30.0, every_s=0.1)
            before, sent = camera.counts(node), camera.sent
            print(
                f"rsvp_node is active after {took:.0f} s; the clip runs for {film.time_s(len(film)):.0f} s:", flush=True
            )
            camera.roll()
            answers = []
            for ask in ASKS:
                at = round(ask.at * len(film))
                node.wait_for(lambda at=at: camera.position >= at, "the film did not go on", 60.0)
                answers.append(find(client, camera, film, ask))
            node.wait_for(lambda: camera.ended, "the film did not end", 60.0 + film.time_s(len(film)))
            camera.stop()
            after, sent = camera.counts(node), camera.sent - sent
        finally:
            camera.close()
    received, overtaken = (after[name] - before[name] for name in ("received", "overtaken"))
    frames = f"{sent} shown, {received} received, {sent - received} lost on the way;\n" + " " * 18
    frames += f"{len(camera.targets)} of the clip's {len(film)} answered, {overtaken} overtaken by newer ones"
    for number, message in sorted(camera.targets.items()):
        for answer in answers:
            answer.add(number, message, film.shots[number])
    return camera, answers, frames


def run(out: Path, seconds: float | None, node: NodeProcess) -> None:
    """Everything but the node's start and end. Raises DemoError."""
    try:
        film = Film.read(DEMO_CLIP, seconds)
    except RsvpError as error:
        raise DemoError(str(error)) from error
    write_picture(out / "scene.png", film.shots[0].image)
    camera, answers, frames = film_and_ask(node, film)
    node.stop()
    write_video(out / "overlay.mp4", camera, film, answers)
    write_sheet(out / "demo.png", camera, film, answers)
    for i, answer in enumerate(answers, start=1):
        write_page(out / f"answer_{i}.png", camera, film, answer)

    width, height = film.size
    print(f"\npictures          {width} x {height} at {film.rate_hz:.0f} Hz: {frames}")
    print(f"image to targets  {np.median(list(camera.delays_s.values())) * 1e3:.0f} ms (median)")
    print(f"found             {sum(answer.right for answer in answers)} of {len(answers)}")
    for answer in answers:
        print(f'  "{answer.ask.instruction}": {answer.verdict(film)}' + (f"; {answer}" if answer.targets else ""))
    print()
    for name, what in (
        ("overlay.mp4", "the video"),
        ("demo.png", "six moments"),
        *((f"answer_{i}.png", f"reasoning {i}") for i in range(1, len(answers) + 1)),
        ("node.log", "the node's log"),
    ):
        print(f"{what:<16}  {out / name}")
    if not any(answer.kept for answer in answers):
        raise DemoError("nothing that was asked for was found and followed for most of the time")
    print(
        "\nThe small MLLM of the package knows this tabletop only, and that in part. With one on an OpenAI-compatible\n"
        "server (vLLM, Ollama), its address written into config/server.yaml, ask what you like of any picture:\n"
        "    source .venv/bin/activate && source install/setup.bash\n"
        f'    rsvp segment {out / "scene.png"} "something to eat" --config config/server.yaml\n'
        "and on a robot: ros2 launch rsvp_ros rsvp.launch.py params_file:=config/server.yaml"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for the results (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, help="how much of the clip to play [s], at least 5 (default: all of it)"
    )
    parser.add_argument(
        "--params-file",
        type=Path,
        default=CONFIG / "embedded.yaml",
        help="the node's parameters (default: embedded.yaml)",
    )
    options = parser.parse_args(arguments)
    if not options.params_file.is_file():
        parser.error(f"--params-file: there is no {options.params_file}")
    if options.seconds is not None and not options.seconds >= 5:
        parser.error("--seconds must be at least 5")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    options = parse(arguments)
    out = options.out.resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"demo: {out} cannot be made: {error.strerror}. Choose another folder with --out.", file=sys.stderr)
        return 1
    print(
        "A clip of a simulated tabletop is the camera; rsvp_node, in another process, is asked for three things on it."
    )
    print(f"Takes less than a minute on a CPU; leaves a video and pictures in {out}.\n", flush=True)
    # Whole images through shared memory, and no traffic with other robots on the network.
    os.environ.setdefault(PROFILES_VARIABLE, str(CONFIG / "fastdds.xml"))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for number in INTERRUPTS:
        signal.signal(number, signal.default_int_handler)
    node: NodeProcess | None = None
    worker: Worker | None = None
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        with interrupts_held():  # none between the process's start and its assignment to `node`
            node = NodeProcess(options.params_file, out / "node.log")
        worker = Worker(lambda: run(out, options.seconds, node))
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
    os._exit(status)  # interrupted work leaves rclpy threads behind, which do not survive an orderly exit
