"""The command line: all argument parsing lives here."""
