"""The one exception of the instruments: its text is a sentence for the person at the keyboard."""


class BenchError(Exception):
    """Bad input or missing data; `python -m bench` prints the text and exits with code 2."""
