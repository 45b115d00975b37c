"""Captions of toy scenes from a grammar with synonyms, in English and Chinese.

Every caption describes the full scene type; some also give the size of a thing and the background. No word
has two meanings, so captions of different types always differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tools.toy.scenes import Scene, SceneType, Thing

LANGUAGES = ("english", "chinese")

Words = Mapping[str, Sequence[str]]

# The first word of each list is used most often.
WORDS: Mapping[str, Words] = {
    "english": {
        "red": ["red", "scarlet"],
        "orange": ["orange"],
        "yellow": ["yellow", "golden"],
        "green": ["green"],
        "cyan": ["cyan", "turquoise"],
        "blue": ["blue"],
        "purple": ["purple", "violet"],
        "pink": ["pink", "rosy"],
        "square": ["square", "box"],
        "triangle": ["triangle"],
        "ring": ["ring", "hoop"],
        "small": ["small", "little"],
        "big": ["big", "large"],
        "plain": ["plain"],
        "gradient": ["shaded"],
        "striped": ["striped"],
        "checkered": ["checkered"],
        "speckled": ["speckled", "grainy"],
    },
    "chinese": {
        "red": ["红色", "鲜红色"],
        "orange": ["橙色", "橘色"],
        "yellow": ["黄色", "金色"],
        "green": ["绿色"],
        "cyan": ["青色"],
        "blue": ["蓝色"],
        "purple": ["紫色"],
        "pink": ["粉色", "粉红色"],
        "square": ["正方形", "方块"],
        "triangle": ["三角形"],
        "ring": ["圆环", "圈圈"],
        "small": ["小", "小小的"],
        "big": ["大", "大大的"],
        "plain": ["纯色"],
        "gradient": ["渐变"],
        "striped": ["条纹"],
        "checkered": ["格子"],
        "speckled": ["斑点", "麻点"],
    },
}

# What a thing does, forward (False) and backward (True); in a sentence this follows the thing.
EVENTS: Mapping[str, Mapping[tuple[str, bool], Sequence[str]]] = {
    "english": {
        ("horizontal", False): [
            "moves to the right",
            "slides right",
            "drifts to the right",
            "travels rightwards",
        ],
        ("horizontal", True): ["moves to the left", "slides left", "drifts to the left", "travels leftwards"],
        ("vertical", False): ["moves down", "sinks", "slides down", "falls towards the bottom"],
        ("vertical", True): ["moves up", "rises", "slides up", "climbs towards the top"],
        ("size", False): ["grows", "gets bigger", "expands", "becomes larger and larger"],
        ("size", True): ["shrinks", "gets smaller", "contracts", "becomes smaller and smaller"],
        ("turn", False): ["turns clockwise", "rotates clockwise", "spins in the clockwise direction"],
        ("turn", True): [
            "turns anticlockwise",
            "rotates anticlockwise",
            "spins in the anticlockwise direction",
        ],
    },
    "chinese": {
        ("horizontal", False): ["向右移动", "往右边滑动", "慢慢向右移", "朝右边飘去"],
        ("horizontal", True): ["向左移动", "往左边滑动", "慢慢向左移", "朝左边飘去"],
        ("vertical", False): ["向下移动", "往下滑动", "慢慢下沉", "朝底部落下"],
        ("vertical", True): ["向上移动", "往上滑动", "慢慢上升", "朝顶部升起"],
        ("size", False): ["变大", "逐渐变大", "慢慢膨胀", "越变越大"],
        ("size", True): ["变小", "逐渐变小", "慢慢收缩", "越变越小"],
        ("turn", False): ["顺时针旋转", "按顺时针方向转动", "顺时针转圈"],
        ("turn", True): ["逆时针旋转", "按逆时针方向转动", "逆时针转圈"],
    },
}
# {a}: the first thing, {b}: the second thing or its colour, {event}: what {a} does.
EVENT_SENTENCES = {
    "english": [
        "{a} {event}",
        "there is {a} that {event}",
        "we see how {a} {event}",
        "the video shows {a} that {event}",
    ],
    "chinese": ["{a}{event}", "有{a}{event}", "画面中{a}{event}", "视频里可以看到{a}{event}"],
}
RECOLOUR_SENTENCES = {
    "english": [
        "{a} turns {b}",
        "{a} changes its colour to {b}",
        "the video shows {a} that becomes {b}",
        "at first there is {a} and then it is {b}",
    ],
    "chinese": ["{a}变成{b}", "{a}的颜色变为{b}", "画面中{a}后来变成了{b}", "起初是{a},然后它变成{b}"],
}
SEQUENCE_SENTENCES = {
    "english": [
        "{a} and then {b}",
        "first {a} appears and then {b}",
        "{a} is replaced by {b}",
        "the video shows {a} followed by {b}",
    ],
    "chinese": ["先是{a},然后是{b}", "{a}先出现,接着出现{b}", "{a}被{b}取代", "画面中{a}消失后出现了{b}"],
}
BACKGROUND_PHRASES = {
    "english": ["on a {background} background", "in front of a {background} wall"],
    "chinese": ["{background}背景上", "{background}墙前"],
}
BACKGROUND_SHARE, SIZE_SHARE, COMMON_WORD_SHARE = 0.3, 0.2, 0.7
_MAX_REPEATS = 300


def make_captions(scene: Scene, language: str, *, count: int, rng: np.random.Generator) -> list[str]:
    """`count` different captions of a scene. Raises `ValueError` if the grammar does not have so many."""
    speaker = _Speaker(language, rng)
    captions: dict[str, None] = {}
    repeats = 0
    while len(captions) < count:
        before = len(captions)
        captions[speaker.sentence(scene)] = None
        repeats = 0 if len(captions) > before else repeats + 1
        if repeats == _MAX_REPEATS:
            raise ValueError(f"{count} captions per clip requested, the toy grammar has about {before}")
    return list(captions)


def make_tag(scene: Scene, language: str, *, rng: np.random.Generator) -> str:
    """Key words: the things and the background, but not what happens."""
    speaker = _Speaker(language, rng)
    things = list(dict.fromkeys(scene.type.in_order()))
    words = [speaker.word(name) for thing in things for name in thing] + [speaker.word(scene.background)]
    return " ".join(dict.fromkeys(words))


def make_query(scene_type: SceneType, language: str, *, rng: np.random.Generator) -> str:
    """A short sentence that any clip of the type fits."""
    return _Speaker(language, rng).event(scene_type, size=None)


def used_characters() -> list[str]:
    """Every character that a Chinese text of the grammar can hold, sorted."""
    texts = [word for words in WORDS["chinese"].values() for word in words]
    texts += [phrase for phrases in EVENTS["chinese"].values() for phrase in phrases]
    for sentences in (EVENT_SENTENCES, RECOLOUR_SENTENCES, SEQUENCE_SENTENCES, BACKGROUND_PHRASES):
        texts += [sentence.format(a="", b="", event="", background="") for sentence in sentences["chinese"]]
    return sorted(set("".join(texts) + "一个的在" + ",") - {" "})


class _Speaker:
    """Makes phrases in one language with random synonyms."""

    def __init__(self, language: str, rng: np.random.Generator) -> None:
        self.language, self.rng = language, rng

    def word(self, name: str) -> str:
        words = WORDS[self.language][name]
        return words[0] if self.rng.random() < COMMON_WORD_SHARE else self._one_of(words)

    def thing(self, thing: Thing, size: str | None) -> str:
        colour, shape = self.word(thing[0]), self.word(thing[1])
        size_word = self.word(size) if size else ""
        if self.language == "chinese":
            return f"一个{size_word}{colour}的{shape}"
        words = f"{size_word} {colour} {shape}".strip()
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"

    def event(self, scene_type: SceneType, *, size: str | None) -> str:
        first, second = scene_type.in_order()
        a = self.thing(first, size)
        if scene_type.kind == "recolour":
            return self._one_of(RECOLOUR_SENTENCES[self.language]).format(a=a, b=self.word(second[0]))
        if scene_type.kind == "sequence":
            return self._one_of(SEQUENCE_SENTENCES[self.language]).format(a=a, b=self.thing(second, size))
        event = self._one_of(EVENTS[self.language][scene_type.kind, scene_type.backward])
        return self._one_of(EVENT_SENTENCES[self.language]).format(a=a, event=event)

    def sentence(self, scene: Scene) -> str:
        tell_size = self.rng.random() < SIZE_SHARE and scene.type.kind not in ("size", "turn")
        event = self.event(scene.type, size=scene.size if tell_size else None)
        if self.rng.random() >= BACKGROUND_SHARE:
            return event
        phrase = self._one_of(BACKGROUND_PHRASES[self.language])
        place = phrase.format(background=self.word(scene.background))
        if self.language == "chinese":
            return f"{place},{event}"
        return f"{event} {place}" if self.rng.random() < 0.5 else f"{place} {event}"

    def _one_of(self, choices: Sequence[str]) -> str:
        return choices[int(self.rng.integers(len(choices)))]
