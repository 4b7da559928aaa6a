"""Tables of the oracle (tests/models/vision/oracle.py): each module holds `CASES`, by the model's type.

The sizes of patches and images are those of a well-known model of the type; only widths and depths are tiny.
"""
