"""The report of a comparison: one page for a browser that needs nothing but itself."""
