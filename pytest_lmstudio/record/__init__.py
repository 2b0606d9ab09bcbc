"""What happened: events as they come, and what follows from them. Pure, but for writing events."""
