"""One process: its threads, its time, its log, its counters."""
