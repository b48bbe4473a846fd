"""Questions on states and directories: listing, show, lookup, diff, verify, export."""
