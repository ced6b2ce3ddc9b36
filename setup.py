"""`pip install -e .`: the parts that need no ROS, and the command `rsvp`. ROS 2 users build with colcon."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "rsvp_ros" / "__init__.py").read_text(), re.MULTILINE)[1]

EXTRAS = {
    "transformers": ["transformers>=5.17", "torchvision>=0.20", "accelerate>=1.0", "num2words>=0.5", "timm>=1.0"],
    "openai": ["openai>=3"],
    "sam": ["segment-anything>=1.0", "torchvision>=0.20", "timm>=1.0"],
    "sim": ["mujoco>=3.17,<5", "rosbags>=0.10.9"],
    "train": [
        "accelerate>=1.0",
        "matplotlib>=3.8",
        "torch>=2.9",  # torch.optim.Muon
        "transformers>=5.17",
        "torchvision>=0.20",
        "timm>=1.0",
    ],
    "test": ["pytest>=8,<8.4", "pytest-timeout>=2.3", "hypothesis>=6.100", "psutil>=5.9", "rosbags>=0.10.9"],
    "lint": ["ruff>=0.9"],
}
EXTRAS["test"] += ["fastapi>=0.110", "uvicorn>=0.30"]  # `transformers serve`
EXTRAS["all"] = sorted({line for extra in ("transformers", "openai", "sam", "sim", "train") for line in EXTRAS[extra]})
DATA = ("txt", "json", "yaml", "safetensors", "md", "mcap", "png", "jpg", "jinja")

setup(
    name="rsvp_ros",
    version=VERSION,
    description="Streaming reasoning segmentation for robots",
    license="Apache-2.0",
    packages=find_packages(include=["rsvp_ros", "rsvp_ros.*"]),
    package_data={"rsvp_ros": [f"**/*.{kind}" for kind in DATA]},
    include_package_data=False,
    python_requires=">=3.10",
    install_requires=[
        "numpy>=1.23",
        "opencv-python-headless>=4.8,<5",
        "pillow>=9.0",
        "pyyaml>=5.4",
        "safetensors>=0.4",
        "torch>=2.4",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "rsvp = rsvp_ros.cli:main",
            "rsvp_node = rsvp_ros.ros.node:main",
            "tabletop_camera = rsvp_ros.ros.tabletop_camera:main",
        ]
    },
)
