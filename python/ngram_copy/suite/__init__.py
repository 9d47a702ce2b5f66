"""Suites: TOML files that say which tasks, engines, lengths and seeds are measured.

A suite expands to cases, one for each task × engine × length × seed; everything in it is checked by making
the tasks and engines before anything runs. ``docs/suites.md`` tells how to write one.
"""

from ngram_copy.suite.cases import Case, Suite, first_example
from ngram_copy.suite.files import load, make_task, parse, shipped
from ngram_copy.suite.options import SuiteError, check_options, did_you_mean, options_of, signature_of

__all__ = [
    "Case",
    "Suite",
    "SuiteError",
    "check_options",
    "did_you_mean",
    "first_example",
    "load",
    "make_task",
    "options_of",
    "parse",
    "shipped",
    "signature_of",
]
