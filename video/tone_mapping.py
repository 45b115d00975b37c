"""HDR pictures as SDR pictures: PQ and HLG video is mapped to BT.709 for an ordinary screen.

The steps, each from its standard, are those of this chain of FFmpeg's filters:

    zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:desat=0:peak=10,zscale=t=bt709

1. PQ (SMPTE ST 2084) or HLG (BT.2100, for a screen of 1000 nits) to light. The light of HDR reference white,
   203 nits (BT.2408), is 1. HLG's system gamma of 1.2 applies to each channel, as in zscale; by luma, as in
   BT.2100, strong colours would be a little paler.
2. Primaries of BT.2020 to those of BT.709 (BT.2087).
3. A Möbius curve maps the light of the strongest channel: unchanged up to 0.3, then flatter; 10 (2030 nits)
   becomes 1. The other channels are multiplied by the same factor, so that hues stay. Reference white gets
   the value 215 of 255.
4. Light to the values of a BT.709 screen (BT.1886: exponent 1 / 2.4).

Legend: R, G, B are in the last axis of float32 arrays [H, W, 3], in this order.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

UNSPECIFIED, PQ, HLG = 2, 16, 18  # FFmpeg's numbers of transfer characteristics
HDR = {PQ: "PQ", HLG: "HLG"}

_REFERENCE_WHITE = 203.0  # nits
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2
_PEAK, _KNEE = 10.0, 0.3  # of the Möbius curve
_SCREEN_GAMMA = 2.4
_BT709_OF_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LEVELS = 1 << 16  # entries of the table of step 1
_ROWS = 128  # rows at once: a picture in full size would take gigabytes


def tone_map(colours: np.ndarray, *, transfer: int) -> np.ndarray:
    """`colours` [H, W, 3]: R'G'B' of PQ or HLG, BT.2020, 0 to 1. Returns BGR uint8 [H, W, 3]."""
    picture = np.empty(colours.shape, np.uint8)
    for start in range(0, len(colours), _ROWS):
        rows = slice(start, start + _ROWS)
        picture[rows] = _tone_map(colours[rows], transfer)
    return picture


def _tone_map(colours: np.ndarray, transfer: int) -> np.ndarray:
    places = np.clip(colours, 0, 1) * np.float32(_LEVELS - 1) + np.float32(0.5)
    light = _light_table(transfer)[places.astype(np.uint16)]
    light = light @ _BT709_OF_BT2020.T
    strongest = np.maximum(light.max(axis=-1, keepdims=True), np.float32(1e-6))
    light *= _mobius(strongest) / strongest
    values = np.clip(light, 0, 1) ** np.float32(1 / _SCREEN_GAMMA)
    return (values[..., ::-1] * np.float32(255) + np.float32(0.5)).astype(np.uint8)


@lru_cache(maxsize=2)
def _light_table(transfer: int) -> np.ndarray:
    """Light by value; reference white is 1."""
    values = np.linspace(0, 1, _LEVELS)
    nits = _light_of_pq(values) if transfer == PQ else _light_of_hlg(values)
    return (nits / _REFERENCE_WHITE).astype(np.float32)


def _light_of_pq(values: np.ndarray) -> np.ndarray:
    """Nits by ST 2084's EOTF."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = values ** (1 / m2)
    return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _light_of_hlg(values: np.ndarray) -> np.ndarray:
    """Nits by BT.2100's inverse OETF and the system gamma."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
    return _HLG_PEAK * scene**_HLG_GAMMA


def _mobius(light: np.ndarray) -> np.ndarray:
    """FFmpeg's curve "mobius": the identity up to the knee, then a hyperbola with the same slope there."""
    knee, peak = _KNEE, _PEAK
    a = -(knee**2) * (peak - 1) / (knee**2 - 2 * knee + peak)
    b = (knee**2 - 2 * knee * peak + peak) / (peak - 1)
    curved = (b**2 + 2 * b * knee + knee**2) / (b - a) * (light + a) / (light + b)
    return np.where(light <= knee, light, curved).astype(np.float32)
