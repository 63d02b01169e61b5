"""What is measured: Inferlane and its peers, started and stopped alike."""
