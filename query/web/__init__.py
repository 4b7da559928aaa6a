"""The page on which a reading is looked at: as one file, and live over a bank."""
