"""The client side of laser-fl in Flower: the ClientApp, and the pieces to write another."""
