"""Folders and tables to checked records in a store."""
