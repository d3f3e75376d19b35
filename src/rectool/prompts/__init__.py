"""Prompts: templates, and the tokens that rows and items become."""
