"""Which picture is a moment's, and how it is decoded."""
