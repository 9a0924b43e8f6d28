"""What a candidate must prove before it is packaged: parity, accuracy, speed."""
