"""Starts that belong to the batch's rows, one by one."""

from torch import Tensor


def same_rows(start: Tensor, data: Tensor) -> Tensor:
    """Returns a start that has the data's shape; another would spread over rows without a word.

    Raises:
        ValueError: for a start of another shape.

    >>> same_rows(torch.zeros(1, 2), torch.ones(8, 2))
    Traceback (most recent call last):
        ...
    ValueError: start has shape (1, 2), the batch's target (8, 2): pass a start for each row
    """
    if start.shape != data.shape:
        raise ValueError(
            f"start has shape {tuple(start.shape)}, the batch's target {tuple(data.shape)}: pass a start for each row"
        )
    return start
