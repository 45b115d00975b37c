"""Each protocol chooses its queries."""

import numpy as np
import pytest

from dataloaders.datasets.eval_protocol import apply_protocol
from dataloaders.examples import Examples, PackedStrings


def several() -> Examples:
    return Examples(
        video_ids=PackedStrings.from_iterable(["v0", "v1", "v2", "v3"]),
        captions=PackedStrings.from_iterable(["一只猫", "dog one", "cat two", "dog two", "fish"]),
        video_of_caption=np.array([0, 1, 0, 1, 3]),
    )


@pytest.mark.parametrize(
    ("protocol", "captions", "owners"),
    [
        ("one_caption", ["一只猫", "dog one", "fish"], [0, 1, 3]),
        ("paragraph", ["一只猫 cat two", "dog one dog two", "fish"], [0, 1, 3]),
        ("several_captions", ["一只猫", "dog one", "cat two", "dog two", "fish"], [0, 1, 0, 1, 3]),
    ],
)
def test_a_protocol_chooses_the_queries(protocol: str, captions: list[str], owners: list[int]) -> None:
    made = apply_protocol(several(), protocol)
    assert list(made.captions) == captions and made.video_of_caption.tolist() == owners
    assert list(made.video_ids) == ["v0", "v1", "v2", "v3"]


def test_auto_leaves_a_split_as_it_is() -> None:
    made = several()
    assert apply_protocol(made, "auto") is made
