"""Features: numbers taken from one message, the same whenever they are taken again."""
