"""What an export is written as: one module a format, and what they share."""
