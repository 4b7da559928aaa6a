"""The page that shows a reading: as one HTML file, and live over a bank."""
