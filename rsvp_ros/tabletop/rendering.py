"""MuJoCo without a screen: the choice of OpenGL to draw with, and the images, depths and ids drawn.

MuJoCo reads MUJOCO_GL once, so everything in this package that needs MuJoCo gets it from `load_mujoco`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import os
import threading
from types import ModuleType

import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.tabletop.view import Camera

BACKENDS = {"egl": "libegl1 libegl-mesa0 libopengl0 libgl1-mesa-dri", "osmesa": "libosmesa6"}
"""Ways to draw without a screen and the Debian packages that they need; the first that works is taken."""

NEAR, FAR = 0.05, 30.0
"""Nearest and farthest that a camera sees, metres along its axis."""
SAMPLES = 4
"""Samples per pixel for the colour. Depth and ids are those at the middle of the pixel."""
SHADOW_MAP = 1024
"""Side of a light's shadow map, pixels, for images up to 400 pixels wide; twice that for larger ones."""


def _load_triton() -> None:
    """If torch has brought Triton along, load it before Mesa's software driver.

    Each has an LLVM of its own, and if Triton is loaded second, it crashes the process. torch imports it when it makes
    an optimiser or compiles.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")


def _library(*names: str) -> ctypes.CDLL | None:
    """The first of some shared libraries that is installed."""
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _egl_works() -> bool:
    """Whether EGL is installed and starts on one of its devices: libEGL itself only dispatches to drivers."""
    egl = _library("libEGL.so.1", "libEGL.so")
    if egl is None:
        return False
    pointer, integer, unsigned = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint

    def function(name: bytes, result, *arguments):
        egl.eglGetProcAddress.restype, egl.eglGetProcAddress.argtypes = pointer, [ctypes.c_char_p]
        address = egl.eglGetProcAddress(name)
        return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None

    query = function(b"eglQueryDevicesEXT", unsigned, integer, pointer, ctypes.POINTER(integer))
    display_of = function(b"eglGetPlatformDisplayEXT", pointer, unsigned, pointer, pointer)
    if query is None or display_of is None:
        return False
    devices, count = (pointer * 16)(), integer(0)
    if not query(len(devices), devices, ctypes.byref(count)):
        return False
    platform_device = 0x313F  # EGL_PLATFORM_DEVICE_EXT
    egl.eglInitialize.restype, egl.eglInitialize.argtypes = unsigned, [pointer, pointer, pointer]
    return any(egl.eglInitialize(display_of(platform_device, devices[i], None), None, None) for i in range(count.value))


def _osmesa_works() -> bool:
    return _library("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so") is not None


_WORKS = {"egl": _egl_works, "osmesa": _osmesa_works}


def choose_backend() -> str:
    """Returns "egl" or "osmesa": what MUJOCO_GL says, else what works here.

    Raises:
        ConfigurationError: MUJOCO_GL names neither, or what is needed is not installed.
    """
    _load_triton()
    wanted = os.environ.get("MUJOCO_GL", "").strip().lower()
    if wanted:
        if wanted not in BACKENDS:
            raise ConfigurationError(
                f"MUJOCO_GL={wanted} cannot draw without a screen: set it to egl or osmesa, or unset it to have one "
                "chosen"
            )
        if not _WORKS[wanted]():
            raise ConfigurationError(
                f"MUJOCO_GL={wanted}, but its OpenGL library is missing or finds nothing to draw with: "
                f"sudo apt install {BACKENDS[wanted]}"
            )
        return wanted
    for name, works in _WORKS.items():
        if works():
            return name
    raise ConfigurationError(
        "the tabletop world draws without a screen and finds no OpenGL for it: "
        + " or ".join(f"sudo apt install {packages}" for packages in BACKENDS.values())
    )


@functools.cache
def load_mujoco() -> ModuleType:
    """The module `mujoco`, set up to draw without a screen.

    Raises:
        ConfigurationError: MuJoCo or a library to draw with is not installed.
    """
    os.environ["MUJOCO_GL"] = choose_backend()
    os.environ["PYOPENGL_PLATFORM"] = os.environ["MUJOCO_GL"]  # a parent process may have set another
    try:
        return importlib.import_module("mujoco")
    except ImportError as error:
        raise ConfigurationError(
            f"the tabletop world needs MuJoCo, which cannot be imported ({error}): pip install 'rsvp_ros[sim]'"
        ) from error


_contexts = threading.local()


def make_current() -> None:
    """Make this thread's OpenGL context current; it is created at first use and kept while the thread lives.

    Raises:
        ConfigurationError: MuJoCo or a library to draw with is not installed, or OpenGL does not start.
    """
    load_mujoco()
    if not hasattr(_contexts, "context"):
        backend = os.environ["MUJOCO_GL"]
        try:
            _contexts.context = importlib.import_module(f"mujoco.{backend}").GLContext(64, 64)
        except Exception as error:  # PyOpenGL raises anything: AttributeError, ImportError, its own errors
            others = " or ".join(name for name in BACKENDS if name != backend)
            raise ConfigurationError(
                f"OpenGL by {backend} does not start ({error}): sudo apt install {BACKENDS[backend]}, "
                f"or set MUJOCO_GL={others}"
            ) from error
        if threading.current_thread() is threading.main_thread():
            atexit.register(_free_context)
    _contexts.context.make_current()


def _free_context() -> None:
    """Called while Python is still intact: PyOpenGL cannot free anything once the interpreter is shutting down."""
    _contexts.context.free()
    del _contexts.context


class Renderer:
    """Draws one compiled model. To be used and closed in the thread that made it."""

    def __init__(self, mujoco: ModuleType, model, size: tuple[int, int]) -> None:
        """
        Args:
            model: MjModel; its first camera is moved to where each picture is taken from.
            size: width and height of the largest image that will be asked for.

        Raises:
            ConfigurationError: OpenGL does not start or cannot draw such an image.
        """
        self._mujoco, self._model, self._size = mujoco, model, size
        self._thread = threading.get_ident()
        model.vis.global_.offwidth, model.vis.global_.offheight = size
        model.vis.quality.offsamples = SAMPLES
        model.vis.quality.shadowsize = SHADOW_MAP if size[0] <= 400 else 2 * SHADOW_MAP
        model.vis.map.znear, model.vis.map.zfar = NEAR / model.stat.extent, FAR / model.stat.extent
        make_current()
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 50)
        try:
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        except mujoco.FatalError as error:
            raise ConfigurationError(
                f"OpenGL by {os.environ['MUJOCO_GL']} cannot draw images of {size[0]} x {size[1]} pixels ({error}): "
                "choose a smaller size"
            ) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._camera = mujoco.MjvCamera()
        self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0

    def close(self) -> None:
        if self._context is not None:
            make_current()
            self._context.free()
            self._context = None

    def _draw(self, data, camera: Camera, groups: tuple[int, ...], segment: bool) -> tuple[np.ndarray, np.ndarray]:
        mujoco, width, height = self._mujoco, camera.width, camera.height
        if width > self._size[0] or height > self._size[1]:
            raise ValueError(f"an image of {width} x {height} is larger than this world's {self._size}")
        if self._context is None or threading.get_ident() != self._thread:
            raise RuntimeError("a world is looked at while it is open, in the thread that made it")
        pose = camera.world_from_optical
        data.cam_xpos[0] = pose[:3, 3]
        data.cam_xmat[0] = (pose[:3, :3] * (1, -1, -1)).reshape(-1)  # OpenGL's: y up, looking along -z
        self._model.cam_fovy[0] = np.degrees(2 * np.arctan(height / 2 / camera.f))
        options = mujoco.MjvOption()
        options.geomgroup[:] = [group in groups for group in range(len(options.geomgroup))]
        mujoco.mjv_updateScene(
            self._model, data, options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = segment
        self._scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = segment
        color, depth = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.float32)
        rect = mujoco.MjrRect(0, 0, width, height)
        make_current()
        mujoco.mjr_render(rect, self._scene, self._context)
        mujoco.mjr_readPixels(color, depth if segment else None, rect, self._context)
        return color[::-1], depth[::-1]

    def image(self, data, camera: Camera, groups: tuple[int, ...]) -> np.ndarray:
        """uint8 H x W x 3 RGB, of the geoms in these MuJoCo groups."""
        return np.ascontiguousarray(self._draw(data, camera, groups, False)[0])

    def geoms(self, data, camera: Camera, groups: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Which geom the ray through the middle of each pixel meets first (int32 H x W, -1: none) and where (float32
        H x W, metres along the optical axis, NaN: nothing)."""
        color, depth = self._draw(data, camera, groups, True)
        table = np.full(self._scene.ngeom + 1, -1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0:
                table[geom.segid + 1] = geom.objid
        codes = color.astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)
        ids = table[codes]
        # Reversed depth: 1 at the near plane, 0 at the far one, linear in 1 / z
        inverse = 1 / FAR + depth.astype(np.float64) * (1 / NEAR - 1 / FAR)
        return ids, np.where(ids >= 0, 1 / inverse, np.nan).astype(np.float32)
