"""The scenes of the toy data, and their division into splits.

A scene type is what captions describe: what happens to which coloured shape. Two types form a group: their
clips have the same frames in opposite order, so a model that ignores the order of frames cannot tell them
apart. Each group belongs to one split only. Simple scenes, for the demo, are apart from this.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("square", "triangle", "ring")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
BACKGROUNDS = ("plain", "gradient", "striped", "checkered", "speckled")
SIZES = ("small", "big")
KINDS = ("horizontal", "vertical", "size", "turn", "recolour", "sequence")
# The order in which a split takes its kinds: those with two colours have more types and come more often.
KINDS_IN_TURN = tuple(kind for single in KINDS[:4] for kind in (single, "sequence", "recolour", "sequence"))
TURNING_SHAPES = ("square", "triangle")  # a turning ring does not change
SPLIT_SHARES = {"train": 0.72, "val": 0.08, "test": 0.2}

Thing = tuple[str, str]  # colour, shape


@dataclass(frozen=True)
class SceneType:
    """What happens (`kind`) to which thing, and in which direction.

    Forward means right, down, growing, clockwise, `first` before `second`. `first` and `second` differ only
    for "recolour" (in colour) and "sequence" (in both).
    """

    kind: str
    first: Thing
    second: Thing
    backward: bool = False

    def reversed(self) -> SceneType:
        """The other type of the group."""
        return SceneType(self.kind, self.first, self.second, not self.backward)

    def in_order(self) -> tuple[Thing, Thing]:
        """(the thing at the beginning of the clip, the thing at its end)."""
        return (self.second, self.first) if self.backward else (self.first, self.second)


@dataclass(frozen=True)
class Scene:
    """One clip to draw: its type, and what varies within the type.

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


def scene_groups() -> dict[str, list[SceneType]]:
    """The forward types of all groups, by kind."""
    things = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    groups = {kind: [SceneType(kind, thing, thing) for thing in things] for kind in KINDS[:4]}
    groups["turn"] = [t for t in groups["turn"] if t.first[1] in TURNING_SHAPES]
    groups["recolour"] = [
        SceneType("recolour", (a, shape), (b, shape))
        for a, b in itertools.combinations(COLOURS, 2)
        for shape in SHAPES
    ]
    groups["sequence"] = [
        SceneType("sequence", (a, first), (b, second))
        for a, b in itertools.combinations(COLOURS, 2)
        for first, second in itertools.permutations(SHAPES, 2)
    ]
    return groups


def split_world(seed: int) -> dict[str, dict[str, list[SceneType]]]:
    """{"train" | "val" | "test": {kind: forward types}}, disjoint; `SPLIT_SHARES` divides each kind."""
    world: dict[str, dict[str, list[SceneType]]] = {split: {} for split in SPLIT_SHARES}
    rng = np.random.default_rng([seed, 2])
    for kind, types in scene_groups().items():
        shuffled = [types[i] for i in rng.permutation(len(types))]
        start = 0.0
        for split, share in SPLIT_SHARES.items():
            world[split][kind] = shuffled[round(start * len(types)) : round((start + share) * len(types))]
            start += share
    return world


def simple_types(seed: int) -> list[SceneType]:
    """The types of simple scenes, shuffled: a model that knows the colours can tell any two apart.

    Each colour has one shape. One type for each thing, with one of the events, and one for each two things:
    "recolour" if they have one shape, else "sequence".
    """
    rng = np.random.default_rng([seed, 3])
    things = [(colour, SHAPES[number % len(SHAPES)]) for number, colour in enumerate(COLOURS)]
    pairs = [("recolour" if a[1] == b[1] else "sequence", a, b) for a, b in itertools.combinations(things, 2)]
    # "turn" is left out: a turning ring does not change.
    alone = [(KINDS[number % 3], thing, thing) for number, thing in enumerate(things)]
    types = [SceneType(*scene, backward=bool(rng.integers(2))) for scene in alone + pairs]
    return [types[i] for i in rng.permutation(len(types))]


def training_types(
    groups: dict[str, list[SceneType]], count: int, rng: np.random.Generator
) -> list[SceneType]:
    """`count` types in the order of `KINDS_IN_TURN`; a type repeats only after all others of its kind."""
    streams = {}
    for kind, types in groups.items():
        both = [t for forward in types for t in (forward, forward.reversed())]
        streams[kind] = itertools.cycle([both[i] for i in rng.permutation(len(both))])
    return [next(streams[kind]) for kind in itertools.islice(itertools.cycle(KINDS_IN_TURN), count)]


def unique_types(groups: dict[str, list[SceneType]], count: int, rng: np.random.Generator) -> list[SceneType]:
    """`count` different types in the order of `KINDS_IN_TURN`; the two of a group follow each other.

    Raises `ValueError` if the split has fewer types.
    """
    unused = {
        kind: _spread([types[i] for i in rng.permutation(len(types))])[::-1] for kind, types in groups.items()
    }
    by_turns: list[SceneType] = []
    while any(unused.values()):
        by_turns += [unused[kind].pop() for kind in KINDS_IN_TURN if unused[kind]]
    chosen = [t for forward in by_turns for t in (forward, forward.reversed())][:count]
    if len(chosen) < count:
        raise ValueError(f"{count} unseen scenes requested, the toy world has {len(chosen)} in this split")
    return chosen


def _spread(types: Sequence[SceneType]) -> list[SceneType]:
    """The types in rounds: each round has one type of every colour (or pair of colours)."""
    seen: Counter[tuple[str, str]] = Counter()
    rounds = []
    for scene_type in types:
        colours = (scene_type.first[0], scene_type.second[0])
        rounds.append(seen[colours])
        seen[colours] += 1
    return [types[i] for i in sorted(range(len(types)), key=rounds.__getitem__)]


def make_scenes(types: Sequence[SceneType], rng: np.random.Generator) -> list[Scene]:
    """A scene for each type, with random background, position, size and speed.

    A type that follows its reverse gets the same background, so that the two differ in the order of frames
    only.
    """
    scenes: list[Scene] = []
    for scene_type in types:
        scene = _make_scene(scene_type, rng)
        if scenes and scene_type == scenes[-1].type.reversed():
            scene = replace(scene, background=scenes[-1].background, tint=scenes[-1].tint)
        scenes.append(scene)
    return scenes


def _make_scene(scene_type: SceneType, rng: np.random.Generator) -> Scene:
    size = SIZES[rng.integers(len(SIZES))]
    low, high = (0.18, 0.2) if size == "small" else (0.26, 0.3)
    # Nearly grey, and never as bright as a shape, so that shapes stand out.
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
        # A wide range, so that the longer-seen of two things is not always the first.
        change=float(rng.uniform(0.33, 0.67)),
        steps=int(rng.integers(20, 31)),
        pause=int(rng.integers(2, 6)),
        texture_seed=int(rng.integers(2**31)),
    )
