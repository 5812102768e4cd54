"""Training of measurement models through the estimation problem (layer 8)."""
