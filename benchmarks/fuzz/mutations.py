"""Random mutations of a file, as a disk, a network or an attacker might cause."""

from hypothesis import strategies as st

__all__ = ["mutated_bytes"]


def mutated_bytes(data: bytes) -> st.SearchStrategy[bytes]:
    """Flip a bit, truncate, insert, delete or zero bytes, repeat the data, or replace them."""
    if not data:
        return st.binary(max_size=20)
    last = len(data) - 1
    # Headers are short, and at the beginning or the end, so mutate these places more often.
    offset = st.one_of(
        st.integers(0, last), st.integers(0, min(last, 200)), st.integers(max(0, last - 60), last)
    )
    return st.one_of(
        st.builds(lambda at, bit: _flip_bit(data, at, bit), offset, st.integers(0, 7)),
        offset.map(lambda at: data[:at]),
        offset.map(lambda at: data[at + 1 :]),
        st.builds(lambda at, more: data[:at] + more + data[at:], offset, st.binary(max_size=12)),
        st.builds(lambda at, n: data[:at] + data[at + n :], offset, st.integers(1, 64)),
        st.builds(lambda at, n: data[:at] + bytes(n) + data[at + n :], offset, st.integers(1, 64)),
        st.just(data + data),
        st.just(data + b"\0"),
        st.binary(max_size=40),
    )


def _flip_bit(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
