"""What things are: no I/O, no clock, no await."""
