"""Fixtures that all tests share."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from rsvp_ros.ros.fastdds import PROFILES_VARIABLE

REPOSITORY = Path(__file__).resolve().parent.parent

# Before rclpy is imported anywhere: apart from other robots, on this machine only, and with a shared-memory segment
# that large images fit into, as the launch file has it.
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault(PROFILES_VARIABLE, str(REPOSITORY / "config" / "fastdds.xml"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

# An example that takes long on a busy machine is no fault.
settings.register_profile("unhurried", deadline=None, print_blob=True)
settings.load_profile("unhurried")

# A shell's background job ignores Ctrl-C, and so would all that tests start in it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def listen_to(caplog):
    """`listen_to(name)`: have `caplog` take a logger's records even where ROS 2's launch lets none propagate."""
    heard: list[logging.Logger] = []

    def listen(name: str) -> None:
        heard.append(logging.getLogger(name))
        heard[-1].addHandler(caplog.handler)

    yield listen
    for logger in heard:
        logger.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, video and recorded MLLM outputs beside the repository; not part of it, for their licences."""
    data = REPOSITORY.parent / "shared" / "data"
    if not (data / "MANIFEST.json").is_file():
        pytest.skip("the real test data (../shared/data) is not beside this checkout")
    return data


@pytest.fixture(scope="session")
def headless_gl() -> str:
    """MuJoCo and an OpenGL that draws without a screen: "egl" or "osmesa"."""
    from rsvp_ros.errors import ConfigurationError
    from rsvp_ros.tabletop.rendering import make_current

    try:
        make_current()
    except ConfigurationError as error:
        pytest.skip(str(error))
    return os.environ["MUJOCO_GL"]
