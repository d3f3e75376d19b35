"""Where raw data comes from: one module per source, and how archives, texts and tables are read."""
