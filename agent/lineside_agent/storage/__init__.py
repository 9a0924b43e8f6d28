"""Records, images and the outbox of the device, and their limits."""
