"""One file per net, and the blocks they share."""
