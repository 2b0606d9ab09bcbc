"""The life of one call: cache, coalescing, breaker, slot, attempt, classification, retry."""
