"""The contact and the library that reads it."""
