"""The bundle, and the registry of its versions."""
