"""The set-up of a checkout: the repairs of the ROS wheels, what a sourced ROS changes, and how a failure is told."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def bootstrap(tmp_path, monkeypatch):
    """The script as a module, at work in an empty checkout."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bootstrap", module)
    spec.loader.exec_module(module)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    monkeypatch.setattr(module, "ROOT", checkout)
    monkeypatch.setattr(module, "VENV", checkout / ".venv")
    monkeypatch.setattr(module, "STAMPS", checkout / ".venv" / "stamps")
    monkeypatch.setattr(module, "LOGS", checkout / "log")
    for name in (*module.ROS_VARIABLES, "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    return module


def cmake_file(prefix: Path, text: str) -> Path:
    file = prefix / "share" / "sensor_msgs" / "cmake" / "export.cmake"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.13"])
def test_include_paths_of_the_builder_become_those_of_this_machine(bootstrap, tmp_path, python):
    builder = "/opt/python/cp{0}-cp{0}".format(python.replace(".", ""))
    numpy = f"{builder}/lib/python{python}/site-packages/numpy/_core/include"
    file = cmake_file(tmp_path, f'DIRECTORIES "{builder}/include/python{python};{numpy};/usr/include"')
    for _ in range(2):  # a second repair changes nothing
        bootstrap.repair_include_paths(tmp_path, "/here/include", "/here/numpy")
        assert file.read_text() == 'DIRECTORIES "/here/include;/here/numpy;/usr/include"'


def test_an_unknown_path_of_the_builder_is_refused(bootstrap, tmp_path):
    file = cmake_file(tmp_path, 'DIRECTORIES "/opt/python/cp311-cp311/share/new"')
    with pytest.raises(bootstrap.SetupError, match=str(file)):
        bootstrap.repair_include_paths(tmp_path, "/here/include", "/here/numpy")


def test_setup_file_enters_the_environment_once(bootstrap, tmp_path):
    pytest.importorskip("ament_package", reason="no ROS 2 environment")
    import ament_package

    prefix = tmp_path / "prefix"
    packages = prefix / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "ament_package").symlink_to(Path(ament_package.__file__).parent)
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "some_package").touch()
    (prefix / "share" / "some_package").mkdir()
    hook = "prepend-non-duplicate;AMENT_PREFIX_PATH;\n"
    (prefix / "share" / "some_package" / "package.dsv").write_text(hook)
    bootstrap.write_setup_files(prefix)
    command = f"source {prefix}/setup.bash && source {prefix}/setup.bash && echo $PATH && echo $AMENT_PREFIX_PATH"
    env = {"PATH": "/usr/bin:/bin"}
    result = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout.split() == [f"{prefix}/bin:/usr/bin:/bin", str(prefix)]


def test_own_environment_is_not_taken_for_a_ros_installation(bootstrap, monkeypatch):
    own = bootstrap.VENV
    (own / "share" / "rclpy").mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{bootstrap.ROOT}/install/rsvp_ros:{own}")
    monkeypatch.setenv("PYTHONPATH", f"{own}/lib/python3.11/site-packages")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{own}/lib:/usr/local/cuda/lib64")
    ros = bootstrap.sourced_ros()
    assert ros == bootstrap.Ros()
    env = bootstrap.environment(ros)
    assert not set(bootstrap.ROS_VARIABLES) & set(env)
    assert env["LD_LIBRARY_PATH"] == "/usr/local/cuda/lib64"
    assert env["PATH"].split(os.pathsep)[0] == str(own / "bin")


def test_sourced_ros_is_used(bootstrap, monkeypatch, tmp_path):
    ros_prefix = tmp_path / "opt" / "ros"
    (ros_prefix / "share" / "rclpy").mkdir(parents=True)
    (ros_prefix / "python" / "rclpy").mkdir(parents=True)
    (ros_prefix / "python" / "rclpy" / "__init__.py").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{bootstrap.ROOT}/install/rsvp_ros:{ros_prefix}")
    monkeypatch.setenv("PYTHONPATH", str(ros_prefix / "python"))
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    ros = bootstrap.sourced_ros()
    assert ros == bootstrap.Ros(str(ros_prefix), "jazzy")
    env = bootstrap.environment(ros)
    assert env["AMENT_PREFIX_PATH"] == str(ros_prefix)
    assert env["PYTHONPATH"] == str(ros_prefix / "python")


def test_sourced_ros_whose_rclpy_is_for_another_python_is_not_used(bootstrap, monkeypatch, tmp_path, capsys):
    (tmp_path / "share" / "rclpy").mkdir(parents=True)
    (tmp_path / "rclpy.py").write_text("raise ImportError('built for another Python')")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert bootstrap.sourced_ros() == bootstrap.Ros()
    assert "built for another Python" in capsys.readouterr().out


def test_a_change_of_ros_is_told_not_mixed(bootstrap):
    bin_folder = bootstrap.VENV / "bin"
    bin_folder.mkdir(parents=True)
    for name in ("python", "pip"):
        (bin_folder / name).symlink_to(sys.executable)
    bootstrap.make_venv(bootstrap.Ros())
    bootstrap.make_venv(bootstrap.Ros())
    with pytest.raises(bootstrap.SetupError, match="make distclean"):
        bootstrap.make_venv(bootstrap.Ros("/opt/ros/jazzy", "jazzy"))


def with_this_python(bootstrap) -> dict[str, str]:
    """A virtual environment whose Python is this one; the environment to run it in."""
    (bootstrap.VENV / "bin").mkdir(parents=True)
    python = bootstrap.VENV / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return {**os.environ, "PATH": f"{bootstrap.VENV}/bin:{os.environ['PATH']}"}


def test_packages_of_the_sourced_ros_are_kept(bootstrap):
    env = with_this_python(bootstrap)
    requirements = bootstrap.ROOT / "runtime.txt"
    requirements.write_text('# a comment\nnumpy==1.0; python_version < "3.11"\npyyaml==9.9\nabsent-package==1.2.3\n')
    missing, constraints = bootstrap.missing_requirements([requirements], env)
    assert [line for line in missing.read_text().splitlines() if "colcon" not in line] == ["absent-package==1.2.3"]
    assert constraints.read_text().splitlines()[0] == f"numpy=={numpy.__version__}"


def test_a_package_of_the_sourced_ros_that_is_too_old_is_none(bootstrap, monkeypatch):
    env = with_this_python(bootstrap)
    requirements = bootstrap.ROOT / "runtime.txt"
    requirements.write_text("pyyaml==9.9\n")
    for least, expected in (((5, 0), []), ((999, 0), ["pyyaml==9.9"])):
        monkeypatch.setattr(bootstrap, "AT_LEAST", {"pyyaml": least})
        missing, _ = bootstrap.missing_requirements([requirements], env)
        assert [line for line in missing.read_text().split() if "colcon" not in line] == expected


def test_what_is_too_old_is_so_for_pip_too(bootstrap):
    text = (Path(__file__).parents[1] / "setup.py").read_text()
    for name, (major, minor) in bootstrap.AT_LEAST.items():
        assert f'"{name}>={major}.{minor}"' in text


def test_a_failing_command_is_told_with_its_output_and_a_remedy(bootstrap, capsys):
    command = ["bash", "-c", "echo first; echo 'fatal error: Python.h: No such file or directory'; exit 3"]
    with pytest.raises(bootstrap.SetupError) as error, bootstrap.step("build", "The build", "inputs"):
        bootstrap.run("build", command, dict(os.environ))
    for part in ("The build", "apt install python3-dev", "ended with 3", str(bootstrap.LOGS / "build.log")):
        assert part in str(error.value)
    assert "fatal error: Python.h" in capsys.readouterr().out
    assert not bootstrap.is_done("build", "inputs")


def test_a_step_is_done_until_its_inputs_change(bootstrap):
    with bootstrap.step("packages", "Packages", "one"):
        pass
    assert bootstrap.is_done("packages", "one")
    assert not bootstrap.is_done("packages", "two")
    with pytest.raises(bootstrap.SetupError), bootstrap.step("packages", "Packages", "two"):
        raise bootstrap.SetupError("no")
    assert not bootstrap.is_done("packages", "one")


def test_missing_compiler_and_python_headers_are_told_with_the_package_to_install(bootstrap, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    bootstrap.VENV.mkdir()
    with pytest.raises(bootstrap.SetupError, match=r"apt install g\+\+"):
        bootstrap.check_machine(bootstrap.Ros())
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho /nowhere/include\n")
    python.chmod(0o755)
    with pytest.raises(bootstrap.SetupError, match="apt install python3-dev"):
        bootstrap.check_headers(python)


def test_unsupported_python_and_full_disk_are_told(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap, "PYTHONS", ((3, 98), (3, 99)))
    with pytest.raises(bootstrap.SetupError, match="PYTHON=python3"):
        bootstrap.check_machine(bootstrap.Ros())
    monkeypatch.setattr(bootstrap, "DISK_GB", 10**9)
    with pytest.raises(bootstrap.SetupError, match="GB free"):
        bootstrap.check_disk()


@pytest.fixture
def rendering(bootstrap, monkeypatch):
    """Tries to draw as the set-up does; gives what identifies the packages, and whether they are known to draw."""
    pytest.importorskip("mujoco")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    (bootstrap.VENV / "bin").mkdir(parents=True)
    bootstrap.STAMPS.mkdir()
    python = bootstrap.VENV / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    python.chmod(0o755)

    def check(packages: str) -> bool:
        bootstrap.check_rendering(bootstrap.Ros(), packages)
        return bootstrap.is_done("rendering", packages)

    return check


def test_missing_opengl_is_told_with_the_packages_to_install(rendering, monkeypatch, tmp_path, capsys):
    # what the loader meets first is no library
    for name in ("EGL", "OSMesa"):
        for version in ("", *(f".{number}" for number in range(10))):
            (tmp_path / f"lib{name}.so{version}").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    for _ in range(2):
        assert not rendering("packages")
        (line,) = capsys.readouterr().out.splitlines()
        for part in ("all works but rendering the tabletop world", "sudo apt install libegl1 ", "libosmesa6"):
            assert part in line


def test_rendering_that_works_is_not_mentioned(rendering, capsys):
    from rsvp_ros.errors import ConfigurationError
    from rsvp_ros.tabletop.rendering import choose_backend

    try:
        choose_backend()
    except ConfigurationError as error:
        pytest.skip(str(error))
    assert rendering("packages")
    assert capsys.readouterr().out == ""


def test_only_one_set_up_at_a_time(bootstrap):
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    command = [sys.executable, "-c", code, str(bootstrap.ROOT)]
    with bootstrap.alone():
        assert b"BlockingIOError" in subprocess.run(command, capture_output=True).stderr
    assert subprocess.run(command, capture_output=True).returncode == 0
