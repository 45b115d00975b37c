"""95 % intervals of means over a few seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# Two-sided 95 % points of Student's t by degrees of freedom.
STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean of at least two values; at most ten count as ten."""
    freedom = min(len(values) - 1, max(STUDENT))
    return STUDENT[freedom] * statistics.stdev(values) / math.sqrt(len(values))
