"""Synthetic chest images with known findings, to try ctray without data."""
