"""From raw surveillance video to features and scores."""

__version__ = "0.1.0"
