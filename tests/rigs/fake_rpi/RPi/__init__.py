"""Stand in for the RPi package where there are no pins; found by PYTHONPATH."""
