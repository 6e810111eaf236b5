"""One process: its threads, its time, its log, its counters, its files.

Every room uses it; it uses none.
"""
