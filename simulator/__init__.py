"""A pretend site: cameras, loops, pins and an upload server, all on this computer."""
