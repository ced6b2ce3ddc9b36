"""`ros2 launch rsvp_ros rsvp.launch.py` and the `ros2` commands of a user, where ROS 2's launch stack is present."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile

import pytest

REASON = "ROS 2's launch stack and command line are not in this environment (they are not on PyPI)"
launch = pytest.importorskip("launch", reason=REASON)
launch_pytest = pytest.importorskip("launch_pytest", reason=REASON)
pytest.importorskip("launch_ros", reason=REASON)
if shutil.which("ros2") is None:
    pytest.skip(REASON, allow_module_level=True)

from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from mllm_server import RecordedServer, Reply
from node_harness import Robot, until
from std_msgs.msg import String
from test_node import ANSWER, table

from rsvp_ros.action import FindTarget
from rsvp_ros.ros.fastdds import PROFILES_VARIABLE

NAMESPACE = "launched"


@pytest.fixture
def server():
    with RecordedServer(Reply(ANSWER, piece_delay_s=0.02), models=["qwen3-vl"]) as server:
        yield server


@pytest.fixture
def params_file(tmp_path, server):
    path = tmp_path / "server.yaml"
    path.write_text(
        "/**:\n  ros__parameters:\n    mllm:\n      backend: openai\n      openai:\n"
        f"        base_url: {server.url}\n        max_retries: 0\n"
    )
    return path


@pytest.fixture
def robot():
    robot = Robot(NAMESPACE)
    robot.show(table())
    yield robot
    robot.close()


def launch_file() -> str:
    return os.path.join(get_package_share_directory("rsvp_ros"), "launch", "rsvp.launch.py")


@launch_pytest.fixture
def description(params_file):
    """The launch file as another one includes it."""
    arguments = {
        "params_file": str(params_file),
        "namespace": NAMESPACE,
        "input_image_topic": f"/{NAMESPACE}/image_raw",
        "device": "cpu",
    }
    included = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(launch_file()), launch_arguments=arguments.items()
    )
    return launch.LaunchDescription([included, launch_pytest.actions.ReadyToTest()])


@pytest.mark.launch(fixture=description)
def test_the_included_launch_file_brings_up_a_node_that_finds_targets(robot):
    until(lambda: robot.targets, "images processed")
    robot.instructions.publish(String(data="the red book"))
    assert robot.tracked(5)
    assert until(lambda: [r for r in robot.reasonings if r.complete], "reasoning")[-1].found
    result = robot.result_of(robot.send(FindTarget.Goal(instruction="the red book"))).result
    assert [target.class_name for target in result.targets] == ["book"]


class Command:
    """A `ros2` command in a process group of its own, and what it prints."""

    def __init__(self, *arguments: str) -> None:
        self._file = tempfile.NamedTemporaryFile("w+", errors="replace")  # noqa: SIM115  closed in __exit__
        self.process = subprocess.Popen(
            ["ros2", *arguments], stdout=self._file, stderr=subprocess.STDOUT, start_new_session=True
        )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._file.close()

    @property
    def output(self) -> str:
        self._file.seek(0)
        return self._file.read()

    def wait_for(self, *texts: str) -> str:
        try:
            until(lambda: all(text in self.output for text in texts), f"{texts}")
        except AssertionError as error:
            raise AssertionError(f"{error} in the output of {self.process.args}:\n{self.output[-4000:]}") from None
        return self.output

    def interrupt(self) -> int:
        """As Ctrl-C does; the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"SIGINT did not end it:\n{self.output[-4000:]}") from None


def ask_until(text: str, *arguments: str) -> None:
    """Ask again until the answer holds a text: a daemon that just started has not yet heard of every node."""

    def answered() -> bool:
        with Command(*arguments) as command:
            command.process.wait(60)
            return text in command.output

    until(answered, f"{text!r} from ros2 {' '.join(arguments)}")


def test_the_commands_of_a_user(robot, params_file):
    arguments = [f"params_file:={params_file}", f"namespace:={NAMESPACE}", f"input_image_topic:=/{NAMESPACE}/image_raw"]
    with Command("launch", "rsvp_ros", "rsvp.launch.py", *arguments) as launched:
        launched.wait_for("Active: images from")
        ask_until("active [3]", "lifecycle", "get", f"/{NAMESPACE}/rsvp_node")
        goal = "{instruction: the red book}"
        with Command(
            "action", "send_goal", "--feedback", f"/{NAMESPACE}/find_target", "rsvp_ros/action/FindTarget", goal
        ) as c:
            output = c.wait_for("Feedback:", "name: presence", "class_name: book", "SUCCEEDED")
            assert output.index("Feedback:") < output.index("SUCCEEDED")
        with Command("topic", "echo", "--truncate-length", "20", f"/{NAMESPACE}/targets") as command:
            command.wait_for("class_name: book", "state: 1", "frame_id: test_camera_optical")
        with Command("topic", "echo", f"/{NAMESPACE}/reasoning") as command:
            command.wait_for("instruction: the red book", "complete: true")
        with Command("param", "describe", f"/{NAMESPACE}/rsvp_node", "tracker.lost_after_s") as command:
            command.wait_for("How long a target may go unseen")
        with Command("param", "set", f"/{NAMESPACE}/rsvp_node", "tracker.lost_after_s", "3.0") as command:
            command.wait_for("successful")
        with Command("param", "set", f"/{NAMESPACE}/rsvp_node", "segmenter.model", "x") as command:
            command.wait_for("deactivate and clean up first")
        for transition, state in (("deactivate", "inactive [2]"), ("cleanup", "unconfigured [1]")):
            with Command("lifecycle", "set", f"/{NAMESPACE}/rsvp_node", transition) as command:
                command.wait_for("Transitioning successful")
            ask_until(state, "lifecycle", "get", f"/{NAMESPACE}/rsvp_node")
        for transition in ("configure", "activate"):
            with Command("lifecycle", "set", f"/{NAMESPACE}/rsvp_node", transition) as command:
                command.wait_for("Transitioning successful")
        count = len(robot.targets)
        until(lambda: len(robot.targets) > count + 5, "images processed again")
        assert launched.interrupt() == 0
        assert "process has finished cleanly" in launched.output
        assert "Traceback" not in launched.output


def test_every_argument_is_described():
    with Command("launch", "rsvp_ros", "rsvp.launch.py", "--show-args") as command:
        command.process.wait(60)
        output = command.output
    assert "No description given" not in output
    for name in (
        "params_file",
        "namespace",
        "input_image_topic",
        "device",
        "use_sim_time",
        "autostart",
        "log_level",
        "rviz",
    ):
        assert f"'{name}'" in output


def test_what_the_parameters_file_says_holds(tmp_path):
    """Arguments that were not given do not override it."""
    path = tmp_path / "params.yaml"
    path.write_text(
        "/**:\n  ros__parameters:\n    autostart: false\n    use_sim_time: true\n"
        "    camera: {image_transport: compressed}\n"
    )
    with Command("launch", "rsvp_ros", "rsvp.launch.py", f"params_file:={path}", f"namespace:={NAMESPACE}") as launched:
        ask_until("unconfigured [1]", "lifecycle", "get", f"/{NAMESPACE}/rsvp_node")
        ask_until("True", "param", "get", f"/{NAMESPACE}/rsvp_node", "use_sim_time")
        for transition in ("configure", "activate"):
            with Command("lifecycle", "set", f"/{NAMESPACE}/rsvp_node", transition) as command:
                command.wait_for("Transitioning successful")
        launched.wait_for("Active: images from /camera/color/image_raw/compressed")
        assert launched.interrupt() == 0


def test_what_large_images_need_is_set_for_the_node_alone(monkeypatch):
    """Not for what an including launch file starts afterwards; and what the user has set stays."""
    monkeypatch.delenv(PROFILES_VARIABLE, raising=False)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    before, started = dict(os.environ), []

    def look(event, context):
        started.append((event.env, dict(context.environment)))
        return launch.actions.EmitEvent(event=launch.events.Shutdown())

    arguments = {"namespace": NAMESPACE, "autostart": "false"}
    service = launch.LaunchService()
    service.include_launch_description(
        launch.LaunchDescription(
            [
                launch.actions.RegisterEventHandler(launch.event_handlers.OnProcessStart(on_start=look)),
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(launch_file()), launch_arguments=arguments.items()
                ),
            ]
        )
    )
    assert service.run() == 0
    ((node, others),) = started
    assert others == before
    assert node[PROFILES_VARIABLE].endswith("fastdds.xml")
    assert (node["MALLOC_MMAP_THRESHOLD_"], node["MALLOC_TRIM_THRESHOLD_"]) == ("67108864", "5")


@pytest.fixture(scope="module", autouse=True)
def no_daemon_left():
    """ros2 starts a daemon in each domain; this one goes with the tests."""
    yield
    subprocess.run(
        ["ros2", "daemon", "stop"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=60
    )
