"""Bytes that a disk, a network or a stranger has changed."""

from hypothesis import strategies as st

__all__ = ["mutated_bytes"]


def mutated_bytes(data: bytes) -> st.SearchStrategy[bytes]:
    """The data with bits turned, cut short, with bytes put in or taken away, or twice over."""
    if not data:
        return st.binary(max_size=20)
    last = len(data) - 1
    # Headers are short, and stand at the beginning or the end.
    place = st.one_of(
        st.integers(0, last), st.integers(0, min(last, 200)), st.integers(max(0, last - 60), last)
    )
    return st.one_of(
        st.builds(lambda at, bit: _turned(data, at, bit), place, st.integers(0, 7)),
        place.map(lambda at: data[:at]),
        place.map(lambda at: data[at + 1 :]),
        st.builds(lambda at, more: data[:at] + more + data[at:], place, st.binary(max_size=12)),
        st.builds(lambda at, n: data[:at] + data[at + n :], place, st.integers(1, 64)),
        st.builds(lambda at, n: data[:at] + bytes(n) + data[at + n :], place, st.integers(1, 64)),
        st.just(data + data),
        st.just(data + b"\0"),
        st.binary(max_size=40),
    )


def _turned(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
