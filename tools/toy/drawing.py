"""Drawing of toy scenes, and encoding as H.264 mp4 files.

Shapes: T frames of a clip, S side of a frame in pixels.
"""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from tools.toy.scenes import Scene, Thing

Frames = npt.NDArray[np.uint8]

SIDE = 64
FRAMES_PER_SECOND = 4  # low, so that clips last 6 to 10 s, nearly as in VATEX, with few frames to draw
RGB = {
    "red": (220, 25, 25),
    "orange": (255, 130, 0),
    "yellow": (250, 235, 20),
    "green": (20, 160, 40),
    "cyan": (20, 215, 225),
    "blue": (25, 50, 225),
    "purple": (125, 30, 170),
    "pink": (255, 120, 190),
}
_SUBPIXEL_BITS = 4


def draw_clip(scene: Scene) -> Frames:
    """uint8 [T, S, S, 3], RGB. The two types of a group give reversed frames if all else is equal."""
    time = np.concatenate([np.zeros(scene.pause), np.linspace(0, 1, scene.steps), np.ones(scene.pause)])
    background = _draw_background(scene)
    event = np.stack([_draw_frame(scene, background, moment) for moment in time])
    return event[::-1] if scene.type.backward else event


def clip_seconds(scene: Scene) -> float:
    """Duration of the clip of a scene."""
    return (scene.steps + 2 * scene.pause) / FRAMES_PER_SECOND


def write_clip(path: Path, scene: Scene) -> None:
    """Write a scene as an mp4 file, with the same bytes each time."""
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "16", "threads": "1"}
        for image in draw_clip(scene):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def _draw_frame(scene: Scene, background: npt.NDArray[np.float32], moment: float) -> Frames:
    """uint8 [S, S, 3]: the scene at `moment`, 0 to 1, of its forward event."""
    (colour, shape), centre = _thing_at(scene, moment)
    radius, angle = scene.radius, 0.0
    if scene.type.kind in ("horizontal", "vertical"):
        offset = (moment - 0.5) * 0.72 * scene.extent
        centre = (
            (centre[0] + offset, centre[1])
            if scene.type.kind == "horizontal"
            else (centre[0], centre[1] + offset)
        )
    elif scene.type.kind == "size":
        radius = scene.extent * (0.08 + 0.22 * moment)
    elif scene.type.kind == "turn":
        radius, angle = max(radius, 0.19), scene.angle + 150 * scene.extent * moment
    alpha = _draw_mask(shape, centre=centre, radius=radius, angle=angle)[..., None]
    blended = background + alpha * (np.array(RGB[colour], dtype=np.float32) - background)
    return np.rint(blended).astype(np.uint8)


def _thing_at(scene: Scene, moment: float) -> tuple[Thing, tuple[float, float]]:
    if moment <= scene.change or scene.type.kind not in ("recolour", "sequence"):
        return scene.type.first, scene.centre
    return scene.type.second, scene.second_centre if scene.type.kind == "sequence" else scene.centre


def _draw_mask(
    shape: str, *, centre: tuple[float, float], radius: float, angle: float
) -> npt.NDArray[np.float32]:
    """[S, S], 0 outside of the shape and 1 inside; `angle` in degrees clockwise."""
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    contours = [(outline * radius) @ rotation + np.array(centre) for outline in OUTLINES[shape]]
    fixed_point = [np.rint((c * SIDE - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32) for c in contours]
    cv2.fillPoly(mask, fixed_point, color=(255,), lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
    return mask.astype(np.float32) / np.float32(255)


def _draw_background(scene: Scene) -> npt.NDArray[np.float32]:
    """float32 [S, S, 3], 0 to 255."""
    rng = np.random.default_rng(scene.texture_seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    direction = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(direction) + y * np.sin(direction)
    period = rng.uniform(0.16, 0.26)
    patterns = {
        "plain": np.zeros((SIDE, SIDE)),
        "gradient": np.clip(along - along.mean(), -0.5, 0.5) * 90,
        "striped": np.where((along / period) % 1 < 0.5, 20.0, -20.0),
        "checkered": np.where(((x / period) // 1 + (y / period) // 1) % 2 == 0, 20.0, -20.0),
        "speckled": np.where(rng.random((SIDE, SIDE)) < 0.2, 40.0, -10.0),
    }
    pattern = patterns[scene.background][..., None]
    return np.clip(np.array(scene.tint) + pattern, 0, 255).astype(np.float32)


def _regular(corners: int, start: float = -90.0) -> npt.NDArray[np.float64]:
    """Corners of a regular polygon in the unit circle, y down, the first at `start` degrees."""
    angles = np.deg2rad(start + np.arange(corners) * 360 / corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


# One or more outlines each, in units of the radius; the second is a hole.
OUTLINES = {
    "square": [_regular(4, start=-45.0) * 1.15],
    "triangle": [_regular(3) * 1.1],
    "ring": [_regular(32), _regular(32) * 0.55],
}
