"""Virtual folders on disk: their hosts, and every way to open and change what is in them."""
