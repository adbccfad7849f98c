"""Which arguments have a row for each datum, and how their rows are repeated."""

import torch

from pyrovae.infer.pair.rows import has_row_per_datum, repeat_rows


def test_rows_are_repeated_in_succession_and_other_arguments_stay() -> None:
    x, y = torch.arange(6.0).view(3, 2), torch.tensor([1, 2, 3])
    weight, scale, text = torch.ones(2, 3), torch.tensor(0.5), "abc"  # of three letters
    rows = repeat_rows((x, weight, y, scale, text, None), 2)
    assert torch.equal(rows[0], torch.stack([x[0], x[0], x[1], x[1], x[2], x[2]]))
    assert torch.equal(rows[2], torch.tensor([1, 1, 2, 2, 3, 3]))
    assert rows[1] is weight
    assert rows[3] is scale
    assert rows[4:] == [text, None]
    is_row = [has_row_per_datum(part, 3) for part in (x, y, weight, scale, text, [1, 2, 3])]
    assert is_row == [True, True, False, False, False, False]
