"""The wire: how a camera is asked, and how its packets become pictures."""
