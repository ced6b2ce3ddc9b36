"""The package as its users get it: metadata that agree, interfaces that are explained, everything installed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from safetensors import safe_open

import rsvp_ros
from rsvp_ros import errors

ROOT = Path(__file__).resolve().parent.parent
INTERFACES = sorted([*(ROOT / "msg").glob("*.msg"), *(ROOT / "action").glob("*.action")])
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
EXECUTABLES = sorted(path for path in SCRIPTS if not path.suffix)
MODULES = sorted((ROOT / "rsvp_ros").rglob("*.py"))
# From the ground up: what is in rsvp_ros imports only from lower lines and from its own part.
LAYERS = (
    ("errors", "geometry", "arguments"),
    ("types", "surface", "textures", "files", "model_files", "progress", "ranges"),
    ("request", "visualization", "frame_history"),
    ("reasoning", "segmentation", "tracking", "tabletop"),
    ("perception", "training"),
    ("config",),
    ("evaluation",),
    ("cli", "ros"),
)
BELOW_TABLETOP = {"errors", "files", "arguments", "geometry", "types", "visualization", "textures", "progress"}
EXTRA_MODULES = ("mujoco", "rosbags", "transformers", "openai", "segment_anything", "timm", "accelerate", "matplotlib")


def files_below(folder: Path) -> set[str]:
    """Their paths relative to the folder, without what Python compiled."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in paths}


def setup_py(*arguments: str) -> str:
    command = [sys.executable, "setup.py", "--quiet", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def entry_points() -> dict[str, str]:
    """The console scripts of setup.py: name to module:function."""
    code = (
        "import setuptools; from distutils.core import run_setup;"
        "print('\\n'.join(run_setup('setup.py', stop_after='init').entry_points['console_scripts']))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return dict(re.split(r"\s*=\s*", line) for line in result.stdout.split("\n") if "=" in line)


def imported(source: Path) -> set[str]:
    """All that a module imports anywhere in it: absolute dotted names, of functions and classes too."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(module: Path) -> str:
    """The module or package directly in rsvp_ros that a file belongs to; "" for rsvp_ros itself."""
    first = module.relative_to(ROOT / "rsvp_ros").parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@pytest.fixture(scope="module")
def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


@pytest.fixture(scope="module")
def prefix() -> Path:
    """Where colcon installed the package."""
    index = pytest.importorskip("ament_index_python.packages", reason="no ROS 2 environment")
    try:
        return Path(index.get_package_prefix("rsvp_ros"))
    except index.PackageNotFoundError:
        pytest.skip("the package is not built with colcon")


@pytest.fixture(scope="module")
def installed_module(prefix: Path) -> Path:
    (init,) = prefix.glob("l*/**/python3*/*-packages/rsvp_ros/__init__.py")
    return init.parent


def test_versions_agree(package_xml):
    released = re.search(r"^(\d+\.\d+\.\d+) \(\d{4}-\d\d-\d\d\)\n-+$", (ROOT / "CHANGELOG.rst").read_text(), re.M)
    assert package_xml.findtext("version") == rsvp_ros.__version__
    assert setup_py("--version") == rsvp_ros.__version__
    assert released, "CHANGELOG.rst has no released version"
    assert released[1] == rsvp_ros.__version__


def test_package_xml_has_what_ros_needs(package_xml):
    assert package_xml.get("format") == "3"
    assert package_xml.findtext("name") == "rsvp_ros"
    assert package_xml.findtext("license") == "Apache-2.0"
    assert (ROOT / package_xml.find("license").get("file")).read_text().split()[:2] == ["Apache", "License"]
    assert package_xml.findtext("export/build_type") == "ament_cmake"
    assert package_xml.findtext("member_of_group") == "rosidl_interface_packages"
    assert "@" in package_xml.find("maintainer").get("email")
    assert len(package_xml.findtext("description").split()) > 5
    dependencies = [element.text for element in package_xml if element.tag.endswith("depend")]
    assert len(dependencies) == len(set(dependencies))


def test_package_xml_names_all_ros_packages_in_use(package_xml):
    declared = {element.text for element in package_xml if element.tag.endswith("depend")}
    used = set(re.findall(r"find_package\((\w+)", (ROOT / "CMakeLists.txt").read_text()))
    for interface in INTERFACES:
        used |= set(re.findall(r"^(\w+)/\w+", interface.read_text(), re.M))
    sources = [*(ROOT / "rsvp_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                package, _, rest = node.module.partition(".")
                if rest in ("msg", "srv", "action") or package in ("rclpy", "launch", "launch_ros", "cv_bridge"):
                    used.add(package)
    assert {"sensor_msgs", "ament_cmake"} <= used
    assert used - {"rsvp_ros"} <= declared


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda path: path.name)
def test_every_field_is_explained(interface):
    lines = interface.read_text().splitlines()
    assert lines[0].startswith("# "), "what it is belongs into the first line"
    fields = [line for line in lines if line.strip() and not line.startswith(("#", "---"))]
    assert fields
    # a header, string or flag has no unit; a number tells it
    assert [line for line in fields if not re.search(r"# \S", line)] == []


def test_error_codes_are_those_of_the_action():
    text = (ROOT / "action" / "FindTarget.action").read_text().split("\n---\n")[1]
    constants = {name: int(value) for name, value in re.findall(r"^uint16 ([A-Z_]+)=(\d+)", text, re.M)}
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.RsvpError)]
    codes = [c.code for c in classes]
    assert len(set(codes)) == len(codes)
    assert set(codes) == set(constants.values()) - {constants["NONE"], constants["NOT_FOUND"]}


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_can_be_executed(script):
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env ")


def test_commands_are_the_same_from_pip_and_from_colcon(prefix):
    points = entry_points()
    installed = {path.name for path in (prefix / "lib" / "rsvp_ros").iterdir()}
    assert set(points) == {path.name for path in EXECUTABLES} == installed
    for script in EXECUTABLES:
        module, function = points[script.name].split(":")
        assert f"from {module} import {function}\n" in script.read_text()
        assert os.access(prefix / "lib" / "rsvp_ros" / script.name, os.X_OK)
        source = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
        assert function in {node.name for node in source.body if isinstance(node, ast.FunctionDef)}


def test_colcon_installs_every_file(prefix, installed_module):
    assert files_below(ROOT / "rsvp_ros") <= files_below(installed_module)
    for folder in ("launch", "config"):
        assert files_below(ROOT / folder) <= files_below(prefix / "share" / "rsvp_ros" / folder)


def test_pip_installs_every_file(tmp_path):
    setup_py("build_py", "--build-lib", str(tmp_path))
    source = files_below(ROOT / "rsvp_ros")
    assert any(name.endswith(".txt") for name in source), "no prompts?"
    assert files_below(tmp_path / "rsvp_ros") == source


@pytest.mark.parametrize(
    ("folder", "megabytes"), [("reasoning/weights/mllm_embedded", 24), ("segmentation/weights/vlsm_embedded", 16)]
)
def test_embedded_weights_are_small_and_have_a_card(folder, megabytes):
    files = [path for path in (ROOT / "rsvp_ros" / folder).rglob("*") if path.is_file()]
    assert {"README.md", "config.json", "model.safetensors"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) < megabytes * 1e6


def test_the_embedded_mllm_has_16_bits_a_value():
    with safe_open(ROOT / "rsvp_ros/reasoning/weights/mllm_embedded/model.safetensors", "numpy") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


@pytest.mark.parametrize("place", ["outside", "source tree"])
def test_messages_and_modules_are_one_package(prefix, tmp_path, place):
    """The source tree must not hide the generated messages, nor they the modules."""
    code = """if True:
        import rsvp_ros.geometry, rsvp_ros.msg, rsvp_ros.action
        from rclpy.serialization import deserialize_message, serialize_message
        target = rsvp_ros.msg.Target(id=7, class_name="scissors")
        assert deserialize_message(serialize_message(target), rsvp_ros.msg.Target) == target
        print(rsvp_ros.__file__)
    """
    cwd = tmp_path if place == "outside" else ROOT
    result = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(prefix if place == "outside" else ROOT)


def test_importing_the_package_loads_neither_torch_nor_ros():
    code = "import sys, rsvp_ros; print([m for m in ('torch', 'rclpy', 'cv2') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_imports_run_downward():
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    assert {part(module) for module in MODULES} == {"", *level}
    upward = []
    for module in MODULES:
        own = part(module)
        for name in imported(module):
            package, _, other = name.partition(".")
            other = other.partition(".")[0]
            # the other names in rsvp_ros are its interfaces and its version
            if package == "rsvp_ros" and other in level and other != own and level[other] >= level.get(own, -1):
                upward.append(f"{module.relative_to(ROOT)} imports {name}")
    assert upward == []


def test_tabletop_stands_on_few_modules():
    """Renderers are started in many processes, and exported views read where nothing else is installed."""
    used = set()
    for module in MODULES:
        if part(module) == "tabletop":
            used |= {name.removeprefix("rsvp_ros.") for name in imported(module) if name.startswith("rsvp_ros.")}
    used = {name for name in used if not name.startswith("tabletop.")}
    assert "geometry.Box" in used
    assert {name for name in used if not any(f"{name}.".startswith(f"{below}.") for below in BELOW_TABLETOP)} == set()


def test_mujoco_is_imported_in_one_place():
    """It reads MUJOCO_GL while it is imported: what else needs it asks tabletop/rendering.py for it."""
    users = set()
    for module in MODULES:
        strings = {node.value for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Constant)}
        names = imported(module) | {string for string in strings if isinstance(string, str)}
        if any(name == "mujoco" or name.startswith("mujoco.") for name in names):
            users.add(str(module.relative_to(ROOT / "rsvp_ros")))
    assert users == {"tabletop/rendering.py"}


def test_modules_can_be_imported_without_the_extras():
    """Adapters of a backend are imported when it is chosen; all else is there to say what is missing."""
    code = f"""if True:
        import importlib, pkgutil, sys
        sys.modules.update(dict.fromkeys({EXTRA_MODULES}))
        import rsvp_ros
        for module in pkgutil.walk_packages(rsvp_ros.__path__, "rsvp_ros."):
            if not module.name.startswith(("rsvp_ros.ros.", "rsvp_ros.segmentation.", "rsvp_ros.training.mllm.")):
                importlib.import_module(module.name)
                print(module.name)
    """
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert {"rsvp_ros.cli", "rsvp_ros.tabletop.bag", "rsvp_ros.tabletop.world"} <= set(result.stdout.split())


def test_tabletop_is_imported_without_torch():
    """Processes of a pool that renders are as many as the cores: each would hold torch, too."""
    code = """if True:
        import importlib, pkgutil, sys
        import rsvp_ros.tabletop
        for module in pkgutil.walk_packages(rsvp_ros.tabletop.__path__, "rsvp_ros.tabletop."):
            importlib.import_module(module.name)
        print([name for name in ("torch", "rclpy", "mujoco") if name in sys.modules])
    """
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
