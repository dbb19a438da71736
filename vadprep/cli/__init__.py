"""The command line: parse, call, print, exit code. See README.md for the commands."""
