"""The world of the toy data: which scenes there are, and which of them each split may show.

A scene type is what captions tell: what happens to which coloured shape. Types come in pairs, a group, whose
clips hold the same frames in opposite order: one plays the other backwards. A model that ignores the order of
frames can not tell them apart. Whole groups are held out for validation and test.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring", "heart")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
BACKGROUNDS = ("plain", "gradient", "striped", "checkered", "speckled")
SIZES = ("small", "big")
KINDS = ("horizontal", "vertical", "size", "turn", "recolour", "sequence")
TURNING_SHAPES = ("square", "triangle", "heart")  # the others look the same again after a small turn
SEQUENCE_GROUPS = 200  # of the 840 possible: about as many as recolourings
SPLIT_SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}

Thing = tuple[str, str]  # colour, shape


@dataclass(frozen=True)
class SceneType:
    """What happens (`kind`), to which thing, and whether it runs backwards.

    Forward means right, down, growing, clockwise, `first` before `second`. `first` and `second` differ for
    "recolour" (in colour) and "sequence" (in both) only.
    """

    kind: str
    first: Thing
    second: Thing
    backward: bool = False

    def reversed(self) -> SceneType:
        """The other type of the group."""
        return SceneType(self.kind, self.first, self.second, not self.backward)

    def in_order(self) -> tuple[Thing, Thing]:
        """What is seen at the beginning and at the end of the clip as it plays."""
        return (self.second, self.first) if self.backward else (self.first, self.second)


@dataclass(frozen=True)
class Scene:
    """One clip to be drawn: its type, and everything that varies without changing the type.

    Lengths are in units of the frame's side, angles in degrees, `steps` and `pause` in frames.
    """

    type: SceneType
    background: str
    tint: tuple[int, int, int]
    size: str
    radius: float
    centre: tuple[float, float]
    second_centre: tuple[float, float]
    extent: float
    angle: float
    change: float
    steps: int
    pause: int
    texture_seed: int


def scene_groups(seed: int) -> dict[str, list[SceneType]]:
    """The forward type of every group by kind; `seed` chooses which of the many sequences exist."""
    things = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    groups = {kind: [SceneType(kind, thing, thing) for thing in things] for kind in KINDS[:4]}
    groups["turn"] = [t for t in groups["turn"] if t.first[1] in TURNING_SHAPES]
    groups["recolour"] = [
        SceneType("recolour", (a, shape), (b, shape))
        for shape in SHAPES
        for a, b in itertools.combinations(COLOURS, 2)
    ]
    pairs = [(a, b) for a, b in itertools.combinations(things, 2) if a[0] != b[0] and a[1] != b[1]]
    chosen = np.random.default_rng([seed, 1]).permutation(len(pairs))[:SEQUENCE_GROUPS]
    groups["sequence"] = [SceneType("sequence", *pairs[i]) for i in chosen]
    return groups


def split_world(seed: int) -> dict[str, dict[str, list[SceneType]]]:
    """{"train" | "val" | "test": {kind: forward types}}, disjoint, each kind cut by `SPLIT_SHARES`."""
    world: dict[str, dict[str, list[SceneType]]] = {split: {} for split in SPLIT_SHARES}
    rng = np.random.default_rng([seed, 2])
    for kind, types in scene_groups(seed).items():
        shuffled = [types[i] for i in rng.permutation(len(types))]
        start = 0.0
        for split, share in SPLIT_SHARES.items():
            world[split][kind] = shuffled[round(start * len(types)) : round((start + share) * len(types))]
            start += share
    return world


def training_types(
    groups: dict[str, list[SceneType]], count: int, rng: np.random.Generator
) -> list[SceneType]:
    """`count` types, kinds in turn; a type comes again only once all of its kind have come."""
    streams = []
    for types in groups.values():
        both = [t for forward in types for t in (forward, forward.reversed())]
        streams.append(itertools.cycle([both[i] for i in rng.permutation(len(both))]))
    return [next(stream) for stream in itertools.islice(itertools.cycle(streams), count)]


def unique_types(groups: dict[str, list[SceneType]], count: int, rng: np.random.Generator) -> list[SceneType]:
    """`count` different types, both of a group one after the other, kinds in turn.

    Raises ValueError where the split has fewer types.
    """
    shuffled = [[types[i] for i in rng.permutation(len(types))] for types in groups.values()]
    by_turns = [t for row in itertools.zip_longest(*shuffled) for t in row if t is not None]
    chosen = [t for forward in by_turns for t in (forward, forward.reversed())][:count]
    if len(chosen) < count:
        raise ValueError(
            f"{count} unseen scenes asked for, but the toy world has {len(chosen)} in this split"
        )
    return chosen


def make_scenes(types: Sequence[SceneType], rng: np.random.Generator) -> list[Scene]:
    """A scene for every type, with background, place, size and speed drawn at random."""
    return [_make_scene(scene_type, rng) for scene_type in types]


def _make_scene(scene_type: SceneType, rng: np.random.Generator) -> Scene:
    size = SIZES[rng.integers(len(SIZES))]
    low, high = (0.14, 0.17) if size == "small" else (0.21, 0.25)
    # Grey with a touch of colour, and never near the brightness of a shape: the shapes stay the vivid things.
    grey = rng.integers(35, 90) if rng.random() < 0.5 else rng.integers(165, 215)
    x, y, second_x, second_y = rng.uniform(0.42, 0.58, size=4)
    tint = np.clip(grey + rng.integers(-14, 15, size=3), 0, 255)
    return Scene(
        type=scene_type,
        background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
        tint=(int(tint[0]), int(tint[1]), int(tint[2])),
        size=size,
        radius=float(rng.uniform(low, high)),
        centre=(float(x), float(y)),
        second_centre=(float(second_x), float(second_y)),
        extent=float(rng.uniform(0.75, 1.0)),
        angle=float(rng.uniform(0, 360)),
        # Wide, as which of two things is seen for longer must not tell which came first.
        change=float(rng.uniform(0.33, 0.67)),
        steps=int(rng.integers(20, 31)),
        pause=int(rng.integers(2, 6)),
        texture_seed=int(rng.integers(2**31)),
    )
