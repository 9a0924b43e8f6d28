"""Which executables serve a bundle, and who takes over when one fails."""
