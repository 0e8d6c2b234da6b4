//! Packets onto the network: AF_XDP or UDP behind one trait.
