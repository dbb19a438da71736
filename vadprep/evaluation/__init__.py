"""Scores become frame scores, metrics, plots and alarms."""
