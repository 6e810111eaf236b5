"""The web interface's routes: who may come in, JSON, pages."""
