"""Models of the multiple-access channel, one file each, and the way of the signals through them."""
