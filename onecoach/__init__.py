"""The machinery: what a run needs around its method. A reader of the method may skip it."""
__version__ = "1.0"
