"""The similarity of one text and one video, written from each head's definition: float64, one pair at a time.

A text is `text` [D] and its real `words`, a list of [D]; a video is `video` [D] and its real `frames`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Pair = Callable[[Mapping[str, NDArray[np.float64]], Vector, list[Vector], Vector, list[Vector]], float]
TOP_FRAMES, XPOOL_HEADS = 2, 2


def cosine(x: Vector, y: Vector) -> float:
    return float(x @ y) / (math.sqrt(x @ x) * math.sqrt(y @ y))


def softmax(numbers: list[float]) -> list[float]:
    exponents = [math.exp(number - max(numbers)) for number in numbers]
    return [exponent / sum(exponents) for exponent in exponents]


def hmmc(weights: object, text: Vector, words: object, video: Vector, frames: list[Vector]) -> float:
    best = sorted((cosine(text, frame) for frame in frames), reverse=True)[:TOP_FRAMES]
    return cosine(text, video) + sum(best) / len(best)


def mean(weights: object, text: Vector, words: object, video: Vector, frames: object) -> float:
    return cosine(text, video)


def wti(weights, text, words, video, frames) -> float:  # type: ignore[no-untyped-def]
    def network(side: str, token: Vector) -> float:
        layers = len([name for name in weights if name.startswith(f"{side}_fc") and "weight" in name])
        for layer in range(layers):
            token = weights[f"{side}_fc.{2 * layer}.weight"] @ token + weights[f"{side}_fc.{2 * layer}.bias"]
            if layer < layers - 1:
                token = np.maximum(token, 0.0)
        return float(token[0])

    a = softmax([network("text", word) for word in words])
    b = softmax([network("video", frame) for frame in frames])
    of_words = sum(w * max(cosine(word, frame) for frame in frames) for w, word in zip(a, words, strict=True))
    of_frames = sum(
        w * max(cosine(word, frame) for word in words) for w, frame in zip(b, frames, strict=True)
    )
    return (of_words + of_frames) / 2


def xpool(weights, text, words, video, frames) -> float:  # type: ignore[no-untyped-def]
    def linear(name: str, x: Vector) -> Vector:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def norm(name: str, x: Vector) -> Vector:
        scaled = (x - x.mean()) / math.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    normed = [norm("ln1", frame) for frame in frames]
    query = linear("q", norm("ln1", text))
    width = len(text) // XPOOL_HEADS
    attended = np.zeros(len(text))
    for head in range(XPOOL_HEADS):
        part = slice(head * width, (head + 1) * width)
        w = softmax([float(query[part] @ linear("k", f)[part]) / math.sqrt(width) for f in normed])
        attended[part] = sum(x * linear("v", f)[part] for x, f in zip(w, normed, strict=True))
    r = norm("ln2", linear("o", attended))
    return cosine(text, norm("ln3", r + linear("fc", r)))


ORACLES: dict[str, Pair] = {"hmmc": hmmc, "mean": mean, "wti": wti, "xpool": xpool}
