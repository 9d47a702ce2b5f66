//! N-grams: hashing, tables, copiers, the prefix machine and statistics.
