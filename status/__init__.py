"""What is wrong, in words."""
