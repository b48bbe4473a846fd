"""One file a command: its options, a call, and what to show."""
