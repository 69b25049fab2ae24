"""The tests; `python -m unittest` runs those that need nothing but Python."""
