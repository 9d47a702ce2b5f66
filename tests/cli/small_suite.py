"""A suite of a few cases of every kind."""

SUITE = """
name = "small"
description = "for tests"

[tasks.letters]
task = "copy"
vocab_size = 4

[tasks.book]
task = "phone_book"
digits = 3

[engines.trigrams]
engine = "ngram"
n = 3

[engines.prefix]
engine = "prefix"
kept = 6

[[cases]]
tasks = ["letters"]
engines = ["trigrams", "prefix"]
lengths = [6, 16]
examples = 60

[[cases]]
tasks = ["book"]
engines = ["trigrams"]
lengths = [2]
examples = 10

[[statistics]]
statistic = "repeats"
tasks = ["letters"]
n = [3]
lengths = [16]
examples = 60
"""

CASES = 6
