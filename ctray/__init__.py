"""Chest images in folders to a checked data set, a tuned classifier, a report and a service."""

__version__ = "0.1.0"
