"""Running mean and standard error."""

import math

from torch import Tensor


class Mean:
    """The mean of numbers that come in batches, and its standard error (Chan, Golub & LeVeque's update)."""

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0
        self._squares = 0.0  # of the distances from the mean

    def add(self, numbers: Tensor) -> None:
        """Take in numbers of any shape."""
        numbers = numbers.double().flatten()
        count, mean = len(numbers), float(numbers.mean())
        distance, total = mean - self.value, self.count + count
        self._squares += float((numbers - mean).square().sum()) + distance**2 * self.count * count / total
        self.value += distance * count / total
        self.count = total

    @property
    def standard_error(self) -> float:
        """Sample standard deviation over the root of the count; NaN for a single number."""
        return math.sqrt(self._squares / (self.count - 1) / self.count) if self.count > 1 else math.nan
