"""The bundle: its parts, how it is made and read, and the registry of its versions."""
