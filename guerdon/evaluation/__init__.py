"""What came out: systems measured on the same sources, what may be concluded, and a page to read it on."""
