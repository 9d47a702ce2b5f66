"""The binding: arguments are checked by the faces that call it."""

from collections.abc import Callable, Sequence
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

__version__: str

class StateError(ValueError):
    """A serialised state is of another version or kind, truncated or damaged."""

_Rows = tuple[int, int, int]

def sample_uniform(rows: _Rows, vocab_size: int, threads: int, out: NDArray[np.uint32]) -> None: ...
def zipf_counts(vocab_size: int, exponent: float) -> NDArray[np.uint64]: ...
def sample_zipf(rows: _Rows, vocab_size: int, exponent: float, threads: int, out: NDArray[np.uint32]) -> None: ...
def markov_chain(chain_seed: int, vocab_size: int, branching: int) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]: ...
def sample_markov(
    rows: _Rows, chain_seed: int, vocab_size: int, branching: int, threads: int, out: NDArray[np.uint32]
) -> None: ...
def sample_distinct(rows: _Rows, high: int, threads: int, out: NDArray[np.uint64]) -> None: ...
def sample_integers(rows: _Rows, low: int, high: int, threads: int, out: NDArray[np.int64]) -> None: ...

_Marks = tuple[Sequence[int], int | None]
_Tokens = NDArray[np.uint32]
_Out = tuple[NDArray[np.int64], NDArray[np.int64]]

@final
class NgramCopier:
    def __new__(
        cls, n: int, policy: str, on_miss: str | int, include_generated: bool, marks: _Marks, seed: int
    ) -> Self: ...
    def predict(
        self, tokens: _Tokens, lengths: NDArray[np.int64] | None, start: int, threads: int, out: _Out
    ) -> None: ...
    def complete(self, prompt: _Tokens, max_new_tokens: int) -> NDArray[np.int64]: ...
    def cut(self, prompt: _Tokens) -> bytes: ...
    def resume(self, state: bytes, max_new_tokens: int, query: _Tokens) -> NDArray[np.int64]: ...

@final
class BoundedNgramCopier:
    def __new__(
        cls, shape: tuple[int, int, int, int], eviction: str, on_miss: str | int, marks: _Marks, seed: int
    ) -> Self: ...
    @property
    def state_bits(self) -> int: ...
    def load(self, prompt: _Tokens) -> tuple[int, int, int, int]: ...
    def predict(
        self, tokens: _Tokens, lengths: NDArray[np.int64] | None, start: int, threads: int, out: _Out
    ) -> None: ...
    def complete(self, prompt: _Tokens, max_new_tokens: int) -> NDArray[np.int64]: ...
    def cut(self, prompt: _Tokens) -> bytes: ...
    def resume(self, state: bytes, max_new_tokens: int, query: _Tokens) -> NDArray[np.int64]: ...

@final
class PrefixMachine:
    def __new__(cls, kept: int, groups: int, vocab_size: int, marks: _Marks) -> Self: ...
    @staticmethod
    def from_state_bits(state_bits: float, vocab_size: int, marks: _Marks) -> PrefixMachine: ...
    @property
    def kept(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def state_bits(self) -> float: ...
    def predict(
        self, tokens: _Tokens, lengths: NDArray[np.int64] | None, start: int, threads: int, out: _Out
    ) -> None: ...
    def complete(self, prompt: _Tokens, max_new_tokens: int) -> NDArray[np.int64]: ...
    def cut(self, prompt: _Tokens) -> bytes: ...
    def resume(self, state: bytes, max_new_tokens: int, query: _Tokens) -> NDArray[np.int64]: ...

_Text = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.int32] | NDArray[np.int64]
_Progress = Callable[[int], object] | None

def ngram_statistics(text: _Text, n: int, threads: int, progress: _Progress) -> tuple[int, int, int, int, int]: ...
def repeat_windows(
    text: _Text, n: int, lengths: Sequence[int], samples: int | None, seed: int, progress: _Progress
) -> list[tuple[int, int]]: ...
def first_pair(text: _Text, n: int, conflict: bool) -> tuple[int, int] | None: ...
def repeat_free(
    rows: _Rows, samples: int, n: int, vocab_size: int, length: int, threads: int, progress: _Progress
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint32]]: ...
def hash_ngrams(tokens: _Text, n: int, seed: int, threads: int, out: NDArray[np.uint64]) -> None: ...

@final
class NgramTable:
    def __new__(cls, tokens: _Text, n: int, policy: str, verify: bool, seed: int) -> Self: ...
    @property
    def distinct(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def next_token(self, ngram: _Text) -> int | None: ...
    def next_tokens(self, ngrams: _Text, missing: int, out: NDArray[np.int64]) -> None: ...
    def source(self, ngram: _Text) -> int | None: ...
    def positions(self, ngram: _Text) -> NDArray[np.int64]: ...

@final
class BoundedNgramTable:
    def __new__(cls, n: int, slots: int, key_bits: int, value_bits: int, eviction: str, seed: int) -> Self: ...
    @staticmethod
    def from_bytes(state: bytes) -> BoundedNgramTable: ...
    def to_bytes(self) -> bytes: ...
    @property
    def options(self) -> tuple[int, int, int, int, str, int]: ...
    @property
    def counts(self) -> tuple[int, int]: ...
    @property
    def state_bits(self) -> int: ...
    def insert(self, tokens: _Text) -> None: ...
    def next_token(self, ngram: _Text) -> int | None: ...

_Floats = NDArray[np.float32] | NDArray[np.float64]
_Steps = tuple[int, int, NDArray[np.int64] | None, bool, NDArray[np.bool_] | None]
_Selective = tuple[_Floats, _Floats, _Floats, _Floats, _Floats, _Floats | None, _Floats | None, _Floats | None, bool]
_SelectiveGradients = tuple[_Floats | None, ...]
_Upstream = tuple[_Floats, _Floats, _Floats | None]
_S4d = tuple[_Floats, _Floats, _Floats, _Floats, _Floats | None]
_Conv = tuple[_Floats, _Floats, _Floats | None, bool]

def selective_scan(
    steps: _Steps,
    sizes: tuple[int, int, int],
    arguments: _Selective,
    initial_state: _Floats | None,
    threads: int,
    out: tuple[_Floats, _Floats, _Floats | None],
) -> None: ...
def selective_scan_backward(
    steps: _Steps,
    sizes: tuple[int, int, int],
    arguments: _Selective,
    upstream: _Upstream,
    threads: int,
    out: _SelectiveGradients,
) -> None: ...
def selective_state_update(
    arrays: tuple[_Floats | None, ...],
    softplus: bool,
    threads: int,
    out: tuple[_Floats, _Floats],
) -> bool: ...
def linear_scan(
    steps: _Steps,
    sizes: tuple[int, bool, bool],
    arguments: tuple[_Floats, _Floats],
    initial_state: _Floats | None,
    threads: int,
    out: tuple[_Floats, _Floats],
) -> None: ...
def linear_scan_backward(
    steps: _Steps,
    sizes: tuple[int, bool, bool],
    arguments: tuple[_Floats, _Floats],
    initial_state: _Floats | None,
    upstream: _Upstream,
    threads: int,
    out: tuple[_Floats, _Floats, _Floats],
) -> None: ...
def linear_step(
    batch: int,
    sizes: tuple[int, bool, bool],
    arguments: tuple[_Floats, _Floats],
    state: _Floats,
    threads: int,
    out: _Floats,
) -> None: ...
def s4d_scan(
    steps: _Steps,
    sizes: tuple[int, int],
    arguments: _S4d,
    initial_state: _Floats | None,
    threads: int,
    out: tuple[_Floats, _Floats, _Floats | None],
) -> None: ...
def s4d_scan_backward(
    steps: _Steps,
    sizes: tuple[int, int],
    arguments: _S4d,
    upstream: _Upstream,
    threads: int,
    out: tuple[_Floats, _Floats, _Floats, _Floats, _Floats | None, _Floats],
) -> None: ...
def s4d_state_update(
    batch: int,
    sizes: tuple[int, int],
    arguments: _S4d,
    state: _Floats,
    threads: int,
    out: tuple[_Floats, _Floats],
) -> None: ...
def causal_conv1d(
    steps: _Steps,
    sizes: tuple[int, int],
    arguments: _Conv,
    initial_state: _Floats | None,
    threads: int,
    out: tuple[_Floats, _Floats],
) -> None: ...
def causal_conv1d_backward(
    steps: _Steps,
    sizes: tuple[int, int],
    arguments: _Conv,
    initial_state: _Floats | None,
    upstream: tuple[_Floats, _Floats | None],
    threads: int,
    out: tuple[_Floats, _Floats, _Floats | None, _Floats],
) -> None: ...
def causal_conv1d_update(
    arrays: tuple[_Floats | None, ...],
    silu: bool,
    threads: int,
    out: tuple[_Floats, _Floats],
) -> bool: ...

_DeltaSizes = tuple[int, int, int, int]
_DeltaInputs = tuple[_Floats, _Floats, _Floats, _Floats | None, _Floats, float]

def delta_rule(
    steps: _Steps,
    sizes: _DeltaSizes,
    arguments: _DeltaInputs,
    initial_state: _Floats | None,
    threads: int,
    out: tuple[_Floats, _Floats, _Floats | None],
) -> None: ...
def delta_rule_backward(
    steps: _Steps,
    sizes: _DeltaSizes,
    arguments: _DeltaInputs,
    upstream: tuple[_Floats, _Floats, _Floats | None],
    threads: int,
    out: tuple[_Floats, _Floats, _Floats, _Floats | None, _Floats, _Floats],
) -> None: ...
def delta_rule_step(
    batch: int,
    sizes: _DeltaSizes,
    arguments: _DeltaInputs,
    state: _Floats,
    threads: int,
    out: tuple[_Floats, _Floats],
) -> None: ...

_OuterSizes = tuple[int, int, int, int]
_OuterInputs = tuple[_Floats, _Floats, _Floats, _Floats | None, float]

def outer(
    steps: _Steps,
    sizes: _OuterSizes,
    arguments: _OuterInputs,
    initial_state: _Floats | None,
    threads: int,
    out: tuple[_Floats, _Floats],
) -> None: ...
def outer_backward(
    steps: _Steps,
    sizes: _OuterSizes,
    arguments: _OuterInputs,
    initial_state: _Floats | None,
    upstream: tuple[_Floats, _Floats | None],
    threads: int,
    out: tuple[_Floats, _Floats, _Floats, _Floats | None, _Floats],
) -> None: ...
def outer_step(
    batch: int,
    sizes: _OuterSizes,
    arguments: _OuterInputs,
    state: _Floats,
    transposed: bool,
    threads: int,
    out: tuple[_Floats, _Floats],
) -> None: ...
