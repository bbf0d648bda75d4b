"""What all HTML reports share: base template, style sheet, thumbnails, numbers, writing.

A new page is a template that extends `base.html.j2`, beside the module that computes what it shows
and hands it to `rendering.render`. Templates are listed in the package data of `pyproject.toml`.
"""
