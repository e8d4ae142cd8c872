"""The built-in example: a corpus that a program writes, the patterns of its slots, and its recipe."""
