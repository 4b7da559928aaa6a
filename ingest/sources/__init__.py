"""What a corpus can be read from: files of several formats, one module each, and datasets."""
