"""The contact, and the library that reads it.

Others use: `backend`, `debounce`, `pins`.
"""
