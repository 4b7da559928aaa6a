"""The version of latentbank, for the face and for what banks record."""

__version__ = "0.1.0"
