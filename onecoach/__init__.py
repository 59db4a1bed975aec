"""The machinery around the method. A reader of the method may skip it."""
__version__ = "1.0"
