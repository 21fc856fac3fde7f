"""Tools that people run by hand; the package never imports them."""
