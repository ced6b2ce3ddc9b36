#!/usr/bin/env python3
"""Sets rsvp_ros up in this folder: virtual environment, pinned packages, ROS 2 from PyPI, `colcon build`.

`make setup`, and with it `make test` and `make demo`, run this. It needs Python 3.10 to 3.13, a C++ compiler and the
network, but no ROS. If a ROS 2 environment is sourced, it is used instead of the one from PyPI, and only what it
lacks is installed. Each step is skipped as long as nothing that it depends on has changed.

Afterwards `source .venv/bin/activate && source install/setup.bash` enters the environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMPS = VENV / "rsvp_ros_setup"
LOGS = ROOT / "log" / "setup"
REQUIREMENTS = ROOT / "requirements"
PYTHONS = ((3, 10), (3, 13))
DISK_GB = 13

# Variables of the calling shell that are not passed on unless ROS 2 is sourced there.
ROS_VARIABLES = (
    "AMENT_PREFIX_PATH",
    "CMAKE_PREFIX_PATH",
    "COLCON_PREFIX_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "ROS_DISTRO",
    "ROS_PYTHON_VERSION",
    "ROS_VERSION",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)
# Packages that are imported under another name than they are installed under.
MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL", "pyyaml": "yaml", "pytest-timeout": "pytest_timeout"}
# Older ones that are installed will not do: with them the embedded MLLM sees nothing correctly.
AT_LEAST = {"transformers": (5, 17)}
# What a failing command says, and what to do about it.
REMEDIES = (
    (r"No space left on device", f"Free about {DISK_GB} GB here, or set TMPDIR to a folder on a larger disk."),
    (
        r"NewConnectionError|NameResolutionError|(Read|Connect)Timeout|ProxyError|SSLError|Connection (broken|reset)",
        "The package index could not be reached: check the network, and the proxy if there is one; then run it again.",
    ),
    (
        r"No matching distribution found",
        "The package index has no such version for this Python and platform (Linux on x86_64 is supported), or could "
        "not be reached: check pip's configuration and the network.",
    ),
    (r"Python\.h: No such file|Could NOT find Python3", "Python's headers are missing: sudo apt install python3-dev"),
    (r"No CMAKE_CXX_COMPILER could be found", "There is no C++ compiler: sudo apt install g++"),
    (r"existing path cannot be removed", "The build folder is of another kind of build: `make clean`, then again."),
    (r"[Kk]illed|MemoryError|cannot allocate memory", "The machine ran out of memory: close other programs."),
)


class SetupError(Exception):
    """A step failed; the message says what to do."""


@dataclass(frozen=True)
class Ros:
    """The ROS 2 that is sourced, or (no prefix) the one from PyPI."""

    prefix: str = ""
    distro: str = ""

    def __str__(self) -> str:
        return f"ROS 2 {self.distro} in {self.prefix}" if self.prefix else "ROS 2 from PyPI"


# ------------------------------------------------------------------------------------------------ what is there


def sourced_ros() -> Ros:
    """The ROS 2 environment of the calling shell. This folder's own .venv and install do not count as one."""
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p and not is_ours(p)]
    prefix = next((p for p in prefixes if (Path(p) / "share" / "rclpy").is_dir()), None)
    if prefix is None:
        return Ros()
    found = subprocess.run([sys.executable, "-c", "import rclpy"], capture_output=True, text=True, cwd="/")
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["it crashed"])[-1]
        say(f"{prefix} is sourced, but {sys.executable} cannot import its rclpy ({reason}): using ROS 2 from PyPI")
        return Ros()
    return Ros(prefix, os.environ.get("ROS_DISTRO", ""))


def is_ours(path: str) -> bool:
    return ROOT in Path(path).resolve().parents or ROOT in Path(path).absolute().parents


def environment(ros: Ros) -> dict[str, str]:
    """The environment for the steps' commands: the caller's, without what would lead to another ROS or venv."""
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    for name in ("PATH", "LD_LIBRARY_PATH", *(ROS_VARIABLES if ros.prefix else ())):
        if name in env:
            env[name] = os.pathsep.join(p for p in env[name].split(os.pathsep) if p and not is_ours(p))
    if not ros.prefix:
        for name in ROS_VARIABLES:
            env.pop(name, None)
    env["PATH"] = os.pathsep.join([str(VENV / "bin"), env.get("PATH", os.defpath)])
    env["VIRTUAL_ENV"] = str(VENV)
    env["PYTHONUNBUFFERED"] = "1"
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    return env


def venv_python_version() -> str:
    """The version of the virtual environment's Python, as "3.11"."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    result = subprocess.run([VENV / "bin" / "python", "-I", "-c", code], capture_output=True, text=True)
    if result.returncode:
        raise SetupError(f"The Python of {VENV} does not run: type `make distclean`, then this again. {result.stderr}")
    return result.stdout.strip()


def base_python() -> Path:
    """The interpreter that the running one is based on, outside of any virtual environment."""
    if sys.prefix == sys.base_prefix:
        return Path(sys.executable)
    name = "python{}.{}".format(*sys.version_info[:2])
    candidates = [Path(sys.base_prefix, "bin", name), Path(sys.base_exec_prefix, "bin", name)]
    return next((c for c in candidates if c.exists()), Path(sys.executable))


def check_machine(ros: Ros) -> None:
    """Raises SetupError, with the remedy, for what would fail later and less clearly."""
    oldest, newest = PYTHONS
    if not VENV.exists():
        version = "{}.{}".format(*sys.version_info[:2])
        if not oldest <= sys.version_info[:2] <= newest:
            raise SetupError(
                f"Python {version} ({sys.executable}) is not supported: 3.10 to 3.13 are. Name another one, "
                "for example: make setup PYTHON=python3.12"
            )
        missing = subprocess.run([base_python(), "-I", "-c", "import ensurepip, venv"], capture_output=True)
        if missing.returncode:
            raise SetupError(
                f"Python's venv module is missing: sudo apt install python3-venv (or python{version}-venv)"
            )
    if not os.environ.get("CXX") and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise SetupError("There is no C++ compiler: sudo apt install g++")
    if not os.environ.get("CC") and not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        raise SetupError("There is no C compiler: sudo apt install gcc")
    if ros.prefix and not shutil.which("cmake"):
        raise SetupError("cmake is missing: sudo apt install cmake")


def check_headers(python: Path) -> None:
    code = "import sysconfig; print(sysconfig.get_path('include'))"
    include = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(include, "Python.h").exists():
        raise SetupError(f"Python's headers are missing ({include}/Python.h): sudo apt install python3-dev")


def check_disk() -> None:
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB:
        raise SetupError(
            f"The packages need about {DISK_GB} GB (torch brings CUDA), and {ROOT} has {free:.1f} GB free: make room."
        )


# ------------------------------------------------------------------------------------------------ steps


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def digest(*parts: object) -> str:
    """A hash of texts, files (by their contents) and whatever else has a str."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.read_bytes() if isinstance(part, Path) else str(part).encode())
        total.update(b"\0")
    return total.hexdigest()


def is_done(step: str, inputs: str) -> bool:
    stamp = STAMPS / step
    return stamp.exists() and stamp.read_text() == inputs


@contextlib.contextmanager
def step(name: str, title: str, inputs: str) -> Iterator[None]:
    """Announces a step, times it, and remembers its inputs when it has succeeded."""
    say(f"{title} ...")
    (STAMPS / name).unlink(missing_ok=True)
    start = time.monotonic()
    try:
        yield
    except SetupError as error:
        raise SetupError(f"The step '{title}' failed. {error}") from None
    except OSError as error:
        raise SetupError(f"The step '{title}' failed: {error}. {remedy(str(error))}".rstrip()) from None
    STAMPS.mkdir(parents=True, exist_ok=True)
    (STAMPS / name).write_text(inputs)
    say(f"{title}: done in {time.monotonic() - start:.0f} s")


def remedy(text: str) -> str:
    return next((what for pattern, what in REMEDIES if re.search(pattern, text)), "")


def run(name: str, command: list[object], env: dict[str, str]) -> None:
    """Runs a command with its output in a log file, showing its last line as it goes."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    command = [str(part) for part in command]
    with log.open("w") as output:
        output.write(" ".join(command) + "\n")
        output.flush()
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            watch(process, log)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        text = log.read_text(errors="replace")
        print("\n".join("    " + line for line in text.splitlines()[-25:]), flush=True)
        raise SetupError(f"{remedy(text)} The command ended with {process.returncode}; its output: {log}".strip())


def watch(process: subprocess.Popen, log: Path) -> None:
    """Shows the last line of the log until the process ends: in place on a terminal, now and then elsewhere."""
    terminal = sys.stdout.isatty()
    start = shown = time.monotonic()
    while True:
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            if now - shown >= (1 if terminal else 15):
                shown = now
                with log.open("rb") as file:
                    file.seek(max(0, log.stat().st_size - 4096))
                    lines = file.read().decode(errors="replace").split("\n")
                line = next((line.strip() for line in reversed(lines) if line.strip()), "")
                text = f"        {now - start:4.0f} s  {line}"[:110]
                print(f"\r\x1b[2K{text}" if terminal else text, end="" if terminal else "\n", flush=True)
        else:
            if terminal:
                print("\r\x1b[2K", end="", flush=True)
            return


def make_venv(ros: Ros) -> None:
    """Makes .venv, or keeps the one that is there."""
    if (VENV / "bin" / "python").exists() and (VENV / "bin" / "pip").exists():
        recorded = STAMPS / "ros"
        if recorded.exists() and recorded.read_text() != ros.prefix:
            other = recorded.read_text()
            way_back = f"source {other}/setup.bash again" if other else "use a shell where no ROS 2 is sourced"
            raise SetupError(
                f"This folder was set up with {other or 'ROS 2 from PyPI'}, and now it would be {ros}. "
                f"Type `make distclean` to set it up anew, or {way_back}."
            )
    else:
        if VENV.exists():
            shutil.rmtree(VENV)
        options = ["--system-site-packages"] if ros.prefix else []
        with step("venv", "Virtual environment (Python {}.{})".format(*sys.version_info[:2]), ""):
            env = {k: v for k, v in environment(ros).items() if k != "VIRTUAL_ENV"}
            run("venv", [base_python(), "-m", "venv", *options, VENV], env)
    # colcon must not look for packages in there
    (VENV / "COLCON_IGNORE").touch()
    STAMPS.mkdir(exist_ok=True)
    (STAMPS / "ros").write_text(ros.prefix)


def install_packages(ros: Ros, version: str) -> str:
    """Installs the pinned packages. Returns what identifies their state."""
    names = ["runtime.txt", "test.txt"] if ros.prefix else ["runtime.txt", "ros.txt", "test.txt"]
    files = [REQUIREMENTS / name for name in (*names, "constraints.txt")]
    inputs = digest(version, ros, *files)
    if is_done("packages", inputs):
        return inputs
    title = "Pinned packages, but for those that are there" if ros.prefix else "Pinned packages (3.3 GB to download)"
    with step("packages", title, inputs):
        python = VENV / "bin" / "python"
        if not ros.prefix:
            check_headers(python)
        if not list(VENV.glob("lib/python3.*/site-packages/torch")):
            check_disk()
        if ros.prefix:
            files = missing_requirements(files[:-1], environment(ros))
        *requirements, constraints = files
        command = [python, "-m", "pip", "install", "--no-input", "--progress-bar=off", "--no-compile"]
        command += ["-c", constraints]
        for file in requirements:
            command += ["-r", file]
        run("packages", command, environment(ros))
    return inputs


def missing_requirements(requirements: list[Path], env: dict[str, str]) -> list[Path]:
    """The requirements that a sourced ROS 2 environment lacks, as files for pip.

    Its NumPy stays, whatever the pin, because its messages and cv_bridge are compiled against it. What the requirements
    pull in is not pinned here: it has to fit what is installed.
    """
    lines = [line.strip() for file in requirements for line in file.read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not shutil.which("colcon", path=env["PATH"]):
        lines.append("colcon-common-extensions")
    names = {line: re.split(r"[=\[;<> ]", line)[0] for line in lines}
    modules = {name: MODULES.get(name, name.replace("-", "_")) for name in names.values()}
    code = (
        "import importlib.metadata, importlib.util, json, sys; modules, least = map(json.loads, sys.argv[1:]);"
        "new = lambda n: [int(p) for p in importlib.metadata.version(n).split('.')[:2]] >= least[n];"
        "there = [n for n, m in modules.items() if importlib.util.find_spec(m) and (n not in least or new(n))];"
        "import numpy; print(json.dumps([there, numpy.__version__]))"
    )
    command = [VENV / "bin" / "python", "-c", code, json.dumps(modules), json.dumps(AT_LEAST)]
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/")
    if result.returncode:
        raise SetupError(f"The sourced ROS 2 has no usable NumPy (sudo apt install python3-numpy): {result.stderr}")
    there, numpy = json.loads(result.stdout)
    missing = [line for line in lines if names[line] not in there]
    if int(numpy.split(".")[0]) < 2:
        # the last version for NumPy 1
        missing = [re.sub(r"^opencv-python-headless==.*", "opencv-python-headless==4.11.0.86", m) for m in missing]
    LOGS.mkdir(parents=True, exist_ok=True)
    outputs = [LOGS / "requirements.txt", LOGS / "constraints.txt"]
    outputs[0].write_text("\n".join(missing) + "\n")
    # launch_pytest breaks with later versions of pytest
    outputs[1].write_text(f"numpy=={numpy}\npytest<8.4\n")
    return outputs


def repair_wheels(packages: str) -> str:
    """Makes the ROS wheels usable for building: see repair_include_paths and write_setup_files."""
    inputs = digest(packages, Path(__file__), str(VENV))
    if is_done("wheels", inputs):
        return inputs
    with step("wheels", "Repairs of the ROS 2 wheels", inputs):
        code = "import json, numpy, sysconfig; print(json.dumps([sysconfig.get_path('include'), numpy.get_include()]))"
        paths = subprocess.run([VENV / "bin" / "python", "-I", "-c", code], capture_output=True, text=True, check=True)
        python_include, numpy_include = json.loads(paths.stdout)
        repair_include_paths(VENV, python_include, numpy_include)
        write_setup_files(VENV)
    return inputs


def repair_include_paths(prefix: Path, python_include: str, numpy_include: str) -> None:
    """The wheels' CMake files name include directories of the machine that built them: replaces them by this one's."""
    builder = r"/opt/python/cp3\d+-cp3\d+t?"
    for file in prefix.glob("share/*/cmake/*.cmake"):
        text = file.read_text()
        repaired = re.sub(
            rf"{builder}/lib/python3\.\d+t?/site-packages/numpy/(_core|core)/include", lambda _: numpy_include, text
        )
        repaired = re.sub(rf"{builder}/include/python3\.\d+t?", lambda _: python_include, repaired)
        if re.search(builder, repaired):
            raise SetupError(f"{file} names a directory of the machine that built it, of a kind not known here.")
        if repaired != text:
            file.write_text(repaired)


def write_setup_files(prefix: Path) -> None:
    """Writes the prefix's setup.bash and its kin, which the wheels lack, from the templates in ament_package.

    They run Python to list the packages. It must not be the virtual environment's Python, which the wheels make restart
    itself.
    """
    templates = next(prefix.glob("lib/python3.*/site-packages/ament_package/template/prefix_level"))
    values = {
        "CMAKE_INSTALL_PREFIX": str(prefix),
        "ament_package_PYTHON_EXECUTABLE": str(base_python()),
        "SKIP_PARENT_PREFIX_PATH": "true",
    }
    for template in templates.iterdir():
        name = template.name[:-3] if template.name.endswith(".in") else template.name
        if name == "_local_setup_util.py" or name.endswith((".sh", ".bash", ".zsh")):
            text = template.read_text()
            if name != template.name:
                text = re.sub(r"@(\w+)@", lambda match: values.get(match[1], ""), text)
            if name == "local_setup.sh":
                text += ACTIVATE.format(prefix=prefix)
            (prefix / name).write_text(text)


ACTIVATE = """
# the interpreter and the tools of this environment
export VIRTUAL_ENV="{prefix}"
case ":$PATH:" in
  ":{prefix}/bin:"*) ;;
  *) export PATH="{prefix}/bin:$PATH" ;;
esac
"""


def install_itself(ros: Ros, packages: str) -> None:
    """Makes this folder's Python package importable, and `rsvp` a command, in the virtual environment."""
    inputs = digest(packages, str(ROOT), ROOT / "setup.py", ROOT / "pyproject.toml", ROOT / "rsvp_ros" / "__init__.py")
    if is_done("itself", inputs):
        return
    with step("itself", "rsvp_ros as a Python package", inputs):
        command = [VENV / "bin" / "python", "-m", "pip", "install", "--no-input", "--no-deps", "--no-build-isolation"]
        run("itself", [*command, "--editable", ROOT], environment(ros))


def colcon_build(ros: Ros, inputs: str) -> None:
    """Builds messages and action and installs them with links to the Python modules, which stay editable."""
    folders = ("rsvp_ros", "launch", "config", "scripts")
    installed = [p for f in folders for p in sorted((ROOT / f).rglob("*")) if p.is_file() and p.suffix != ".pyc"]
    contents = [ROOT / "package.xml", ROOT / "CMakeLists.txt", *sorted((ROOT / "msg").glob("*.msg"))]
    contents += sorted((ROOT / "action").glob("*.action"))
    env = environment(ros)
    inputs = digest(inputs, str(ROOT), env.get("AMENT_PREFIX_PATH"), *map(str, installed))
    inputs = digest(inputs, *contents)
    modules = list(ROOT.glob("install/rsvp_ros/lib/python3.*/site-packages/rsvp_ros/__init__.py"))
    is_linked = bool(modules) and all(module.is_symlink() for module in modules)
    if is_done("build", inputs) and is_linked and (ROOT / "install" / "setup.bash").exists():
        return
    with step("build", "colcon build", inputs):
        command = "colcon build --symlink-install --packages-select rsvp_ros --event-handlers console_direct+"
        if not ros.prefix:
            command = f"source '{VENV}/setup.bash' && {command}"
        run("build", ["bash", "-c", command], env)
        check = "import rclpy, rsvp_ros.msg, rsvp_ros.action as a; rsvp_ros.msg.Target(), a.FindTarget.Goal()"
        command = f"source '{VENV}/bin/activate' && source '{ROOT}/install/setup.bash' && cd / && python -c '{check}'"
        run("check", ["bash", "-c", command], env)


def check_rendering(ros: Ros, packages: str) -> None:
    """Says what to install if the tabletop world cannot be drawn: OpenGL without a screen comes from the system. Tried
    on each run until it works, and again when the packages change."""
    if is_done("rendering", packages):
        return
    code = (
        "import sys; from rsvp_ros.errors import ConfigurationError; from rsvp_ros.tabletop import rendering\n"
        "try: rendering.make_current()\n"
        "except ConfigurationError as error: sys.exit(str(error))"
    )
    command = [VENV / "bin" / "python", "-c", code]
    tried = subprocess.run(command, env=environment(ros), cwd="/", capture_output=True, text=True)
    if tried.returncode == 0:
        (STAMPS / "rendering").write_text(packages)
        return
    reason = (tried.stderr.strip().splitlines() or ["it crashed"])[-1]
    say(f"all works but rendering the tabletop world: {reason}")


# ------------------------------------------------------------------------------------------------ all of it


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One set-up at a time in this folder."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is at work in this folder: waiting for it")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def set_up() -> None:
    start = time.monotonic()
    ros = sourced_ros()
    check_machine(ros)
    make_venv(ros)
    packages = install_packages(ros, venv_python_version())
    built_with = packages if ros.prefix else repair_wheels(packages)
    install_itself(ros, packages)
    colcon_build(ros, built_with)
    say(f"ready with {ros}, Python {venv_python_version()} ({time.monotonic() - start:.1f} s)")
    check_rendering(ros, packages)


def main() -> int:
    try:
        with alone():
            set_up()
    except SetupError as error:
        print(f"[setup] FAILED. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\n[setup] interrupted; the next run goes on with the step it was in", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
