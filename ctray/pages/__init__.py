"""What all HTML reports share: base template, style sheet, thumbnails, numbers, writing."""
