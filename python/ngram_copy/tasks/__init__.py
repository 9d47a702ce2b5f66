"""Tasks: sources of examples; ``TASKS`` holds them by name."""

from ngram_copy.tasks.base import BLANK, SPLITS, Batch, DataHash, Task, TextTask, VocabularySpec
from ngram_copy.tasks.copy import Copy
from ngram_copy.tasks.duplicates import DuplicateNgram
from ngram_copy.tasks.lookup import PrefixLookup, SuffixLookup
from ngram_copy.tasks.mqar import MultiQueryRecall
from ngram_copy.tasks.phone_book import PhoneBook
from ngram_copy.tasks.subsets import CopySubsets
from ngram_copy.tasks.text import TextCopy

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (Copy, CopySubsets, PrefixLookup, SuffixLookup, DuplicateNgram, TextCopy, PhoneBook, MultiQueryRecall)
}
"""All tasks by name; a new one is a file and a line here."""

__all__ = ["BLANK", "SPLITS", "TASKS", "Batch", "DataHash", "Task", "TextTask", "VocabularySpec"]
