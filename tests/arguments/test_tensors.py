"""Arrays and frames are taken wherever tensors are; what is no dense real tensor is refused."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from pyrovae import InputError
from pyrovae.arguments import (
    as_data,
    as_device,
    as_dtype,
    as_generator,
    as_tensor,
    as_tensors,
    is_tensor_like,
)

X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


class PolarsLike:
    """A data frame of another library than pandas."""

    shape = (3, 2)

    def to_numpy(self) -> np.ndarray[Any, Any]:
        return X.double().numpy()


@pytest.mark.parametrize(
    "value",
    [
        X,
        X.numpy(),
        X.double().numpy(),
        X.numpy().astype("float16"),
        X.numpy().astype("longdouble"),
        X.numpy().astype(">f4"),
        np.asfortranarray(X.numpy()),
        X.numpy()[::-1][::-1],
        pd.DataFrame(X.numpy()),
        pd.DataFrame({"a": [1.0, 3, 5], "b": [2, 4, 6]}),
        pd.DataFrame({"a": pd.array([1, 3, 5], dtype="Int64"), "b": [2.0, 4, 6]}),
        PolarsLike(),
    ],
)
def test_real_numbers_get_the_default_type(value: Any) -> None:
    x = as_tensor("x", value)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, X)


@pytest.mark.parametrize(
    "name", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4"]
)
def test_whole_numbers_stay_whole(name: str) -> None:
    x = as_tensor("x", X.numpy().astype(name))
    assert not x.is_floating_point()
    assert x.tolist() == X.tolist()
    assert int(x.max()) == 6  # torch has no maximum of unsigned numbers


def test_truth_values_stay_truth_values() -> None:
    assert as_tensor("x", np.array([True, False])).dtype == torch.bool


def test_missing_whole_numbers_of_a_frame_become_nan() -> None:
    table = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [2, 4]})
    torch.testing.assert_close(
        as_tensor("x", table), torch.tensor([[1.0, 2.0], [torch.nan, 4.0]]), equal_nan=True
    )


def test_tensors_are_returned_as_they_are() -> None:
    for x in (X, X.double(), X.half(), X > 2, X.long(), X.clone().requires_grad_()):
        assert as_tensor("x", x) is x
    assert as_tensor("x", X.to(torch.uint16)).dtype == torch.int32


def test_arrays_share_their_memory() -> None:
    array = np.zeros((3, 2), dtype="float32")
    as_tensor("x", array)[0, 0] = 1
    assert array[0, 0] == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "x is None; it must be a tensor, a NumPy array or a data frame"),
        (3.0, "x is 3.0; it must be a tensor"),
        ([[1.0]], "it must be a tensor"),
        (np.float64(3), "it must be a tensor"),
        (X.to_sparse(), r"dense tensor; give its \.to_dense\(\)"),
        (scipy.sparse.csr_matrix(X.numpy()), r"give its \.toarray\(\)"),
        (X.to("meta"), "holds no values"),
        (X.to(torch.complex64), "type torch.complex64; it must hold real numbers"),
        (X.to(torch.float8_e4m3fn), "it must hold real numbers"),
        (np.array([1j]), "x holds complex128"),
        (np.array(["a"]), "x holds <U1"),
        (np.array([None]), "x holds object"),
        (np.array(["2001-01-01"], dtype="datetime64[s]"), "x holds datetime64"),
        (np.zeros(2, dtype=[("a", "f4")]), "it must hold real numbers"),
        (np.ma.masked_array([1.0], [True]), "masked"),
        (np.array([2**63], dtype="uint64"), "below 2\\^63"),
        (pd.DataFrame({"a": [1.0], "b": ["w"]}), "other things than numbers"),
        (pd.DataFrame({"a": pd.to_datetime(["2001-01-01"])}), "other things than numbers"),
        (pd.DataFrame, "it must be a tensor"),
    ],
)
def test_other_values_are_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        as_tensor("x", value)
    assert "\n" not in str(caught.value)


def test_devices_must_match() -> None:
    with pytest.raises(InputError, match="x is on device cpu, but the model is on meta"):
        as_tensor("x", X, like=torch.empty(0, device="meta"))
    assert as_tensor("x", X.numpy(), like=torch.empty(0, device="meta")).is_meta


def test_data_have_the_shape_of_the_model() -> None:
    assert as_data("x", X, (2,)) is X
    assert as_data("x", X, (3, 2), batch_dims=0) is X
    assert as_data("x", X[0], (2,)).shape == (2,)
    for value, shape, dims in [(X, (3,), None), (X[0, 0], (2,), None), (X[0], (2,), 1),
                               (X, (2,), 0), (X[None], (2,), 1)]:  # fmt: skip
        with pytest.raises(InputError, match="x has shape"):
            as_data("x", value, shape, batch_dims=dims)


def test_given_tensors_have_a_row_for_each_datum() -> None:
    assert [t.shape for t in as_tensors("given", (X, X.numpy()), 3)] == [(3, 2), (3, 2)]
    for value in (X[0, 0], X[:2], "a"):
        with pytest.raises(InputError, match=r"given\[0\] "):
            as_tensors("given", (value,), 3)


def test_frames_are_recognised() -> None:
    assert all(map(is_tensor_like, (X, X.numpy(), pd.DataFrame(), pd.Series([1]), PolarsLike())))
    assert not any(map(is_tensor_like, (None, [X], "x", 3.0, pd.DataFrame, np.float64(1))))


def test_devices_types_and_generators() -> None:
    assert as_device("device", torch.device("cpu")) == as_device("device", "cpu")
    assert as_dtype("autocast", torch.bfloat16) == torch.bfloat16
    assert as_generator("generator", None) is None
    generator = torch.Generator()
    assert as_generator("generator", generator) is generator
    for value in ("banana", "cpu:x", "meta", "", None, 3.5, True, 10**30, "cuda:99"):
        with pytest.raises(InputError, match=r"^device .*choose cpu"):
            as_device("device", value)
    for value in (torch.int32, torch.complex64, "float32", np.float32, None, torch.float8_e4m3fn):
        with pytest.raises(InputError, match=r"^autocast is .*floating-point type"):
            as_dtype("autocast", value)
    with pytest.raises(InputError, match=r"generator is 3; it must be a torch\.Generator"):
        as_generator("generator", 3)
