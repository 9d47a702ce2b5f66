"""``ngram-copy`` whose trainings write a checkpoint all the time: to be killed in the middle of one.

The workers of a run import this file again, so that it holds for them too.
"""

import functools

import ngram_copy.train

ngram_copy.train.train = functools.partial(ngram_copy.train.train, checkpoint_seconds=0.2)

if __name__ == "__main__":
    from ngram_copy.__main__ import main

    main()
