"""The report: pages that show runs, their videos, and feature folders in a browser."""
