"""Commands about engines and devices of this machine."""
