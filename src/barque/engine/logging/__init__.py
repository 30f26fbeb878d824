"""Log drivers: their options, checked in dockerd's words, and what monitors and shippers are told for them."""
