"""What the constructed transformer is held against: the n-gram copier of the whole context, in plain Python."""

import numpy as np

ENDS = "the string ends"


def successors(context, n, vocab_size):
    """For each token of a context, what came after all earlier places with the same n tokens; ENDS at <copy>.

    An n-gram ends at a boundary: (boundary, t_1, …), of at most n entries, nearest last.
    """
    table, found, key = {}, [], None
    for token in context:
        if key is not None:
            table.setdefault(key, []).append(token if token < vocab_size else ENDS)
        key = (None,) if token >= vocab_size else (*key, token)[-n:]
        found.append(list(table.get(key, ())))
    return found


def contexts(strings, vocab_size):
    """``<bos> x <copy> x`` of strings of one length."""
    strings = np.asarray(strings)
    mark = np.full((len(strings), 1), vocab_size)
    return np.concatenate([mark, strings, mark + 1, strings], axis=1)


def planted(rng, vocab_size, n, length):
    """A random string; half of them have an n-gram twice, of which half go on alike."""
    x = rng.integers(0, vocab_size, length)
    span = n + int(rng.integers(0, 2))  # a token more: the successor, too
    if length > span and rng.random() < 0.5:
        i, j = sorted(rng.integers(0, length - span + 1, 2))
        x[j : j + span] = x[i : i + span].copy()
    return x
