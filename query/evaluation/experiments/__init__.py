"""The experiments a reader of the paper runs first: each compares evaluations of scenes."""
