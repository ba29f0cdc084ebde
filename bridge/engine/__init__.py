"""What a compilation leaves: compiled modules, their cache and key, their explanation and their times."""
