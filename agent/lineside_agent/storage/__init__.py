"""What stays on the device: records, images, the outbox, and the bounds of all of them."""
