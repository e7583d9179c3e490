"""Running things: notebooks, their folders and locks, the Python front door, exploration."""
