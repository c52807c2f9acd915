"""Lightning callbacks that a config names by class_path. Nothing in trackrec imports this package."""
