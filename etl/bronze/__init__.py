"""Bronze: landed files become typed rows with their file and load time. All tables are loaded alike: see `load`."""
