"""HarmonicIO: large scientific messages, straight from the instrument to the code that processes them."""

__version__ = "0.1.0"
