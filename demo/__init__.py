"""Draw and read the clips that pretend cameras show in the demo."""
