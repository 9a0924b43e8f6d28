"""What the operating system says of this machine, and how this process uses it."""
