"""Values that a program reads: those that become conditions, and those that are refused."""

from collections.abc import Callable

import pyro
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils import rnn

from pyrovae.infer.compiler.inductor import compile_recording
from pyrovae.infer.compiler.recording.errors import CannotRecord
from pyrovae.infer.compiler.recording.record import Recording, record

X = torch.tensor([1.0, -1.0, 2.0, -3.0])
LENGTHS = torch.tensor([3, 2, 5])

Function = Callable[[Tensor], Tensor]


def holds(recording: Recording, *inputs: Tensor) -> bool:
    return recording.conditions.hold([*recording.reads, *inputs])


def recorded(function: Function, x: Tensor = X) -> Recording:
    return record(lambda x: [function(x)], [x])


def branches(x: Tensor) -> Tensor:
    return x + 1 if x.sum() > 0 else x - 1


def counts_positive(x: Tensor) -> Tensor:
    return x[x > 0] * 2


def selects(x: Tensor) -> Tensor:
    return torch.masked_select(x, x > 0).cumsum(0)


def finds(x: Tensor) -> Tensor:
    return (x > 0).nonzero() + 1


def slices(x: Tensor) -> Tensor:
    return x[: int((x > 0).sum())]


def makes_ones(x: Tensor) -> Tensor:
    return x.sum() * torch.ones(int((x > 0).sum()))


def lists(x: Tensor) -> Tensor:
    return x + sum((x > 0).tolist())


def writes_entries(x: Tensor) -> Tensor:
    y = torch.zeros(4)
    y[x > 0] = x[x > 0] * 3
    return y


CONDITIONAL = [
    branches,
    counts_positive,
    selects,
    finds,
    slices,
    makes_ones,
    lists,
    writes_entries,
]


@pytest.mark.parametrize("function", CONDITIONAL)
def test_values_of_inputs_become_conditions(function: Function) -> None:
    recording = recorded(function)
    other = torch.tensor([2.0, -1.5, 1.0, -4.0])  # of the signs of X, and a negative sum
    assert holds(recording, other)
    torch.testing.assert_close(recording(other)[0], function(other), rtol=0, atol=0)
    assert not holds(recording, torch.ones(4))


@pytest.mark.slow
def test_shapes_that_depend_on_values_are_compiled() -> None:
    def all_of_them(x: Tensor) -> list[Tensor]:
        return [function(x) for function in CONDITIONAL]

    run = compile_recording(record(all_of_them, [X]), [X])
    torch.testing.assert_close(run(2 * X), all_of_them(2 * X))


@pytest.mark.parametrize("function", CONDITIONAL)
def test_gradients_pass_through_shapes_that_depend_on_values(function: Function) -> None:
    weight = torch.randn(4, requires_grad=True)

    def gradient(x: Tensor) -> list[Tensor]:
        y = function(x * weight.detach().abs()) if function is finds else function(x * weight.abs())
        if not y.requires_grad:
            return [y]
        return list(torch.autograd.grad(y.pow(2).sum(), [weight]))

    recording = record(gradient, [X])
    torch.testing.assert_close(recording(2 * X), gradient(2 * X))


def test_an_assertion_is_a_condition() -> None:
    def asserts(n: Tensor) -> Tensor:
        assert LENGTHS.max() <= n
        return n + 1

    recording = recorded(asserts, torch.tensor(5))
    assert holds(recording, torch.tensor(7))
    assert not holds(recording, torch.tensor(4))


def test_data_that_a_program_holds_are_read_anew() -> None:
    lengths = LENGTHS.clone()
    recording = recorded(lambda x: x * int(lengths.max()))
    assert holds(recording, X)
    lengths[0] = 9
    assert not holds(recording, X)


def test_what_is_the_same_in_each_run_is_no_condition() -> None:
    def constant(x: Tensor) -> Tensor:
        for i in pyro.plate("each", 3):
            x = x + i
        y = torch.zeros(2)
        y[1] = 4
        return x * float(y.sum()) + int(torch.tensor(2))

    recording = recorded(constant)
    assert not recording.conditions
    torch.testing.assert_close(recording(-X)[0], constant(-X), rtol=0, atol=0)


@pytest.mark.parametrize("num_classes", [3, 5])
def test_one_hot_reads_nothing_if_it_knows_the_number_of_classes(num_classes: int) -> None:
    classes = torch.tensor([[0, 2], [1, 1]])
    recording = recorded(lambda x: one_hot(x, num_classes), classes)
    assert not recording.conditions
    other = torch.tensor([[2, 2], [0, 1]])
    torch.testing.assert_close(recording(other)[0], one_hot(other, num_classes), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="out of bounds"):
        recording(torch.full((2, 2), num_classes))


def test_one_hot_of_an_unknown_number_of_classes_is_conditional() -> None:
    recording = recorded(one_hot, torch.tensor([0, 2]))
    assert holds(recording, torch.tensor([2, 1]))
    assert not holds(recording, torch.tensor([0, 1]))


def test_an_entry_at_a_random_place_is_taken_without_reading() -> None:
    def picks(x: Tensor) -> Tensor:
        return x[torch.randint(4, ())] + x[torch.tensor(-1)]

    recording = recorded(picks)
    torch.manual_seed(1)
    want = [picks(X) for _ in range(20)]
    torch.manual_seed(1)
    got = [recording(X)[0] for _ in range(20)]
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert len({float(each) for each in got}) > 1


def test_an_entry_that_is_written_to_is_refused() -> None:
    def writes(x: Tensor) -> Tensor:
        y = x * 2
        y[torch.tensor(1)].zero_()
        return y

    with pytest.raises(CannotRecord, match=r"writes into x\[i\]"):
        recorded(writes)


def reads_noise(x: Tensor) -> Tensor:
    return x if torch.randn(()) > 0 else -x


def reads_noise_written_to_a_tensor(x: Tensor) -> Tensor:
    y = torch.zeros(2)
    y[0] = torch.rand(())
    return x * float(y.sum())


def masks_by_noise(x: Tensor) -> Tensor:
    return x[torch.rand(4) > 0.5]


@pytest.mark.parametrize("function", [reads_noise, reads_noise_written_to_a_tensor, masks_by_noise])
def test_values_of_noise_are_refused_by_line(function: Function) -> None:
    pattern = rf"conditions.py:\d+ \(in {function.__name__}\) reads .* depends on random numbers"
    with pytest.raises(CannotRecord, match=pattern):
        recorded(function)


def test_entries_that_are_copied_by_a_random_mask_need_no_value() -> None:
    """As in Pyro's splines, which keep the entries that are out of bounds."""
    weight = torch.randn(4, requires_grad=True)

    def clips(x: Tensor) -> list[Tensor]:
        noise = torch.randn(3, 4) * weight
        outside = noise.abs() > 1
        result = (noise + x).sin()
        result[outside] = noise[outside]
        rows = outside.any(1)
        twice = result * 2
        twice[rows] = result[rows]
        twice[outside] = 0.5
        return [twice.detach(), *torch.autograd.grad(twice.sum(), [weight])]

    recording = record(clips, [X])
    assert not recording.conditions
    for seed in range(4):
        torch.manual_seed(seed)
        want = clips(X)
        torch.manual_seed(seed)
        torch.testing.assert_close(recording(X), want)


def test_entries_by_a_random_mask_that_are_used_otherwise_are_refused() -> None:
    def clips(x: Tensor) -> Tensor:
        noise = torch.randn(4)
        outside = noise > 0
        part = noise[outside]
        x = x.clone()
        x[outside] = part
        return x + part.sum()

    with pytest.raises(CannotRecord, match=r"\(in clips\) reads .* by a mask"):
        recorded(clips)


def test_values_that_the_step_has_changed_are_refused() -> None:
    count = torch.zeros(())

    def counts(x: Tensor) -> Tensor:
        count.add_(1)
        return x if count > 3 else -x

    with pytest.raises(CannotRecord, match="which the step has changed before"):
        recorded(counts)


def test_many_numbers_are_data() -> None:
    with pytest.raises(CannotRecord, match="by tolist, of 2,000 numbers"):
        recorded(lambda x: torch.tensor(x.tolist()), torch.ones(2000))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_lengths_of_packed_sequences_are_conditions(kind: str, is_sorted: bool) -> None:
    """Torch reads them within its kernels, by no operator."""
    torch.manual_seed(0)
    network = getattr(nn, kind)(2, 3, batch_first=True, bidirectional=True)
    lengths = torch.tensor([5, 4, 2] if is_sorted else [4, 2, 5])

    def function(x: Tensor, lengths: Tensor) -> list[Tensor]:
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=is_sorted)
        padded, found = rnn.pad_packed_sequence(network(packed)[0], batch_first=True)
        return [padded, found, *torch.autograd.grad(padded.sum(), list(network.parameters()))]

    x = torch.randn(3, 5, 2)
    recording = record(function, [x, lengths])
    other = torch.randn(3, 5, 2)
    assert holds(recording, other, lengths.clone())
    torch.testing.assert_close(recording(other, lengths), function(other, lengths))
    for changed in ([5, 4, 3], [5, 5, 1], [5, 1, 1]):
        assert not holds(recording, other, torch.tensor(changed))


def test_places_of_a_split_are_conditions() -> None:
    def function(x: Tensor, places: Tensor) -> list[Tensor]:
        return [part.sum() for part in torch.tensor_split(x, places)]

    recording = record(function, [X, torch.tensor([1, 2])])
    assert holds(recording, -X, torch.tensor([1, 2]))
    assert not holds(recording, -X, torch.tensor([1, 3]))


def test_tensors_of_other_shapes_are_not_equal() -> None:
    """``torch.equal`` does not broadcast."""

    def function(x: Tensor) -> list[Tensor]:
        return [x + 1 if torch.equal(torch.ones(2, 1), torch.ones(1, 2)) else x - 1]

    recording = record(function, [X])
    torch.testing.assert_close(recording(X), [X - 1])


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda x: x.item(), "item"),
        (float, "__float__"),
        (int, "__int__"),
        (bool, "__bool__"),
    ],
)
def test_conditions_name_what_reads_a_value(read: Callable[[Tensor], float], name: str) -> None:
    recording = recorded(lambda x: x + 1 if read(x[0]) > 0 else x - 1)
    (place,) = recording.conditions.places
    assert f"{name}" in place
    assert "test_conditions.py" in place


def test_random_lengths_are_refused() -> None:
    def function(x: Tensor) -> list[Tensor]:
        lengths = torch.randint(1, 3, (2,))
        return [rnn.pack_padded_sequence(x, lengths, enforce_sorted=False).data]

    with pytest.raises(CannotRecord, match="reads the value of a tensor"):
        record(function, [torch.randn(3, 2, 1)])


def test_shapes_that_depend_on_values_are_named_with_their_place() -> None:
    message = r"test_conditions\.py:\d+ \(in <lambda>\) calls unique, and the shape .* compute it"
    with pytest.raises(CannotRecord, match=message):
        recorded(lambda x: torch.unique(x) + 1)
