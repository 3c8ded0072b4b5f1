"""Files of other tools: read into what this toolkit works with, and written for others to read."""
