"""How good scores are: numpy in, numbers out."""
