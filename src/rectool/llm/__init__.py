"""Language models: where they come from, what is read off them, and the one composite that recommends."""
