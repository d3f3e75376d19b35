"""rectool joins collaborative filtering with large language models for recommendation."""

__version__ = "0.1.0"
