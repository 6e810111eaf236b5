"""What a server's answer means."""
