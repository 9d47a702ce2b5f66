"""How well can a sequence model copy from its context? N-gram copiers, bounds and a benchmark."""
