from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from dataloaders.datasets.lsmdc import SPEC, read_split

ID = "0001_American_Beauty_00.00.51.926-00.00.54.129"
LINE = f'{ID}\t00.00.51.500\t00.00.54.000\t00.00.51.926\t00.00.54.129\tShe "looks" up, smiling.\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "a.csv"
    path.write_text(text, "utf-8")
    return path


def test_lines_without_header_or_quoting(tmp_path: Path) -> None:
    other = "1_M_01.02.03.500-01.02.05.000\tx\tx\t01.02.03.500\t01.02.05.000\t\n"
    examples = read_split(write(tmp_path, LINE + "\n" + LINE.replace("up", "down") + other))
    assert list(examples.video_ids) == [ID, other.split("\t")[0]]
    first = 'She "looks" up, smiling.'
    assert list(examples.captions) == [first, first.replace("up", "down"), ""]
    assert examples.durations is not None
    np.testing.assert_allclose(examples.durations, [2.203, 1.5], rtol=1e-5)


def test_ids_tell_the_movie_and_its_seconds() -> None:
    assert SPEC.span_of_id is not None
    span = SPEC.span_of_id("0001_American_Beauty_01.00.51.926-01.00.54.129")
    assert span is not None and span.source == "0001_American_Beauty"
    assert (span.start, span.end) == pytest.approx((3651.926, 3654.129))
    assert SPEC.span_of_id("video7") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINE + LINE.replace("\t", ","), "line 2: has 1 cells between tabs, not 6: clip id, start and end"),
        (LINE.replace("\tShe", "\t\tShe"), "line 1: has 7 cells between tabs"),
        (LINE.replace(ID, " "), "line 1: has 6 cells between tabs"),
        ("id\ts\te\ts\te\tsentence\n", "line 1: is a header (id, ...); the file has none"),
        ("\n", "is empty"),
    ],
)
def test_other_forms_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read_split(write(tmp_path, text))
    assert message in str(error.value) and "\n" not in str(error.value)
