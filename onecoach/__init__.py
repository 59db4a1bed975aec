"""The machinery: what a run needs around its method. A reader of the method may skip it."""
