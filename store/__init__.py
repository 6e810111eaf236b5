"""The order of writes that survives a crash."""
