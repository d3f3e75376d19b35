"""The figures of `rectool plot`: each file reads artifacts, makes the table behind a figure, and draws it."""
