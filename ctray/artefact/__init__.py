"""The bundle: its parts, how it is made and read, and the registry of its versions."""

# Name of a model in the registry, unless another is given.
DEFAULT_NAME = "chest"
